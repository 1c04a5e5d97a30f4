// Socket.IO servers on ports of their own, one for each configuration of `node server.mjs '{"name": {…}}'`; prints
// their ports. {forbidden: true} refuses every session; everything else is an option of Server.
import { createServer } from "node:http";
import { Server } from "socket.io";

const ports = {};
for (const [name, { forbidden = false, ...options }] of Object.entries(JSON.parse(process.argv[2]))) {
  const http = createServer((_, answer) => answer.writeHead(404, { "Content-Type": "text/plain" }).end("not here"));
  const io = new Server(http, { ...options, allowRequest: (_, decide) => decide(null, !forbidden) });
  io.of("/messages").on("connection", (socket) => socket.on("echo", (text, answer) => answer(text)));
  await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
  ports[name] = http.address().port;
}
console.log(JSON.stringify(ports));

// The tests have ended, however that happened.
process.stdin.resume().on("end", () => process.exit(0));
