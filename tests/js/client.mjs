// Plays scenarios with the stock JavaScript client.
//
// A scenario: {url, namespace, options, msgpack, tokens, steps}. `options` go to io() as they are. `tokens` makes
// `auth` a function that gives the next token each time it is asked. Each step gives one entry of `steps` in the
// result; `seen` of the result lists everything that the client noticed, in order.
import { io } from "socket.io-client";
import msgpack from "socket.io-msgpack-parser";
import { serve } from "./lines.mjs";

const PATIENCE = 20_000;

function decode(value) {
  if (Array.isArray(value)) return value.map(decode);
  if (value === null || typeof value !== "object") return value;
  if (typeof value.$binary === "string") return Buffer.from(value.$binary, "hex");
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, decode(item)]));
}

function encode(value) {
  if (value instanceof ArrayBuffer) return { $binary: Buffer.from(value).toString("hex") };
  if (ArrayBuffer.isView(value)) {
    return { $binary: Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("hex") };
  }
  if (Array.isArray(value)) return value.map(encode);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, encode(item)]));
}

class Notes {
  seen = [];
  #taken = new Set();
  #waiting = [];

  add(kind, fields = {}) {
    this.seen.push({ kind, ...fields });
    this.#waiting = this.#waiting.filter((check) => !check());
  }

  // The next thing of one of these kinds that no earlier step has waited for.
  next(kinds) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`waited for ${kinds.join(" or ")}, saw ${JSON.stringify(this.seen)}`)),
        PATIENCE,
      );
      const check = () => {
        const place = this.seen.findIndex((note, index) => kinds.includes(note.kind) && !this.#taken.has(index));
        if (place < 0) return false;
        this.#taken.add(place);
        clearTimeout(timer);
        resolve(this.seen[place]);
        return true;
      };
      if (!check()) this.#waiting.push(check);
    });
  }
}

function makeSocket({ url, namespace = "/", options = {}, msgpack: packed = false, tokens = null }, notes) {
  const settings = { forceNew: true, reconnection: false, timeout: PATIENCE, ...options };
  if (packed) settings.parser = msgpack;
  if (tokens !== null) {
    let asked = 0;
    settings.auth = (answer) => answer({ token: tokens[Math.min(asked++, tokens.length - 1)] });
  }
  const socket = io(url + namespace, settings);
  const watched = new WeakSet();
  const watch = () => {
    const engine = socket.io.engine;
    if (!engine || watched.has(engine)) return;
    watched.add(engine);
    engine.on("open", () => notes.add("open", { engine: engine.id, transport: engine.transport.name }));
    engine.on("upgrade", (transport) => notes.add("upgrade", { transport: transport.name }));
    engine.on("upgradeError", (error) => notes.add("upgradeError", { message: error.message }));
  };
  watch();
  socket.io.on("reconnect_attempt", () => queueMicrotask(watch));
  socket.io.on("open", watch);
  socket.on("connect", () => {
    watch();
    notes.add("connect", { sid: socket.id, engine: socket.io.engine.id, transport: socket.io.engine.transport.name });
  });
  socket.on("connect_error", (error) =>
    notes.add("connect_error", {
      message: error.message,
      hasData: "data" in error && error.data !== undefined,
      data: error.data,
      description: typeof error.description === "object" ? error.description?.message : error.description,
      body: error.context?.responseText,
      active: socket.active,
    }),
  );
  socket.on("disconnect", (reason) => notes.add("disconnect", { reason, active: socket.active }));
  socket.onAny((name, ...args) => notes.add(`event:${name}`, { args: encode(args) }));
  return socket;
}

async function step(action, socket, notes) {
  const [kind, argument] = Object.entries(action)[0];
  switch (kind) {
    case "wait":
      return notes.next([argument].flat());
    case "emit":
      socket.emit(...decode(argument));
      return null;
    case "call":
      return encode(await socket.timeout(PATIENCE).emitWithAck(...decode(argument)));
    case "connect":
      socket.connect();
      return null;
    case "disconnect":
      socket.disconnect();
      return null;
    case "packet": // a Socket.IO packet as it is, past the state of this client
      socket.io._packet(decode(argument));
      return null;
    case "cut": // the connection breaks, without a close frame
      socket.io.engine.transport.ws._socket.destroy();
      return null;
    case "request": {
      const response = await fetch(argument.url, { method: argument.method ?? "POST" });
      return { status: response.status, body: await response.text() };
    }
    case "transport":
      return socket.io.engine.transport.name;
    default:
      throw new Error(`no such step: ${kind}`);
  }
}

async function play(scenario) {
  const notes = new Notes();
  const socket = makeSocket(scenario, notes);
  const steps = [];
  try {
    for (const action of scenario.steps ?? [{ wait: ["connect", "connect_error"] }]) {
      steps.push(await step(action, socket, notes));
    }
    return { steps, seen: notes.seen, connected: socket.connected, active: socket.active };
  } finally {
    socket.disconnect();
    socket.io.engine?.close();
  }
}

serve(play);
