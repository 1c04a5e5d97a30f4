// Plays scenarios with the stock JavaScript client.
//
// A scenario: {url, namespace, also, options, msgpack, tokens, tokenUrl, refresh, localAddress, steps}. `options` go to
// io() as they are. `tokens` makes `auth` a function that gives the next token each time it is asked, `tokenUrl` one
// that fetches it. `also` lists further namespaces of the same manager. Each step gives one entry of `steps` in the
// result; `seen` of the result lists everything that the client noticed, in order.
//
// {signal} instead lets all scenarios go on that wait for the signal of that name, now or later.
import http from "node:http";
import { io } from "socket.io-client";
import msgpack from "socket.io-msgpack-parser";
import { serve } from "./lines.mjs";

// Only so that a run ends at all.
const PATIENCE = 240_000;

// Whoever still waits when the tests have ended gives up.
const over = new Promise((_, reject) => process.stdin.once("end", () => reject(new Error("the tests have ended"))));
over.catch(() => {});

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
  #position = 0;

  add(kind, fields = {}) {
    this.seen.push({ kind, ...fields });
    this.#waiting = this.#waiting.filter((check) => !check());
  }

  // What `find` finds, as soon as it finds something.
  #until(find, what) {
    const found = new Promise((resolve, reject) => {
      const giveUp = () => reject(new Error(`waited for ${what}, saw ${JSON.stringify(this.seen)}`));
      const timer = setTimeout(giveUp, PATIENCE);
      const check = () => {
        const found = find();
        if (found === undefined) return false;
        clearTimeout(timer);
        resolve(found);
        return true;
      };
      if (!check()) this.#waiting.push(check);
    });
    return Promise.race([found, over]);
  }

  // The next thing of one of these kinds that no earlier step has waited for.
  next(kinds) {
    const find = () => {
      const place = this.seen.findIndex((note, index) => kinds.includes(note.kind) && !this.#taken.has(index));
      if (place < 0) return undefined;
      this.#taken.add(place);
      return this.seen[place];
    };
    return this.#until(find, kinds.join(" or "));
  }

  // So many things of this kind in each of the namespaces, since the last time this was asked or `forget` was called.
  more(kind, times, namespaces) {
    const find = () => {
      const found = this.seen.slice(this.#position).filter((note) => note.kind === kind);
      const enough = (name) => found.filter((note) => note.namespace === name).length >= times;
      if (!namespaces.every(enough)) return undefined;
      this.forget();
      return found.length;
    };
    return this.#until(find, `${times} more of ${kind}`);
  }

  forget() {
    this.#position = this.seen.length;
  }
}

const signals = new Map();

function signal(name) {
  if (!signals.has(name)) {
    let resolve;
    const given = new Promise((found) => (resolve = found));
    signals.set(name, { given, give: resolve });
  }
  return signals.get(name);
}

async function fetchToken(url) {
  return (await fetch(url)).text();
}

function makeSockets(scenario, notes) {
  const { url, namespace = "/", also = [], options = {}, msgpack: packed = false, tokens = null } = scenario;
  const settings = { forceNew: true, reconnection: false, timeout: PATIENCE, ...options };
  if (packed) settings.parser = msgpack;
  if (scenario.localAddress) settings.agent = new http.Agent({ localAddress: scenario.localAddress });
  if (tokens !== null) {
    let asked = 0;
    settings.auth = (answer) => answer({ token: tokens[Math.min(asked++, tokens.length - 1)] });
  } else if (scenario.tokenUrl) {
    settings.auth = async (answer) => answer({ token: await fetchToken(scenario.tokenUrl).catch(() => null) });
  }
  const socket = io(url + namespace, settings);
  const others = also.map((name) => socket.io.socket(name, { auth: settings.auth }));
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
  socket.on("connect", watch);
  const sockets = [socket, ...others];
  for (const each of sockets) listen(each, notes, scenario);
  return sockets;
}

function listen(socket, notes, scenario) {
  const namespace = socket.nsp;
  socket.on("connect", () => {
    const { id: engine, transport } = socket.io.engine;
    notes.add("connect", { namespace, sid: socket.id, engine, transport: transport.name });
  });
  socket.on("connect_error", (error) =>
    notes.add("connect_error", {
      namespace,
      message: error.message,
      hasData: "data" in error && error.data !== undefined,
      data: error.data,
      description: typeof error.description === "object" ? error.description?.message : error.description,
      body: error.context?.responseText,
      active: socket.active,
    }),
  );
  socket.on("disconnect", (reason, details) =>
    notes.add("disconnect", { namespace, reason, active: socket.active, code: details?.context?.code }),
  );
  socket.onAny((name, ...args) => notes.add(`event:${name}`, { namespace, args: encode(args) }));
  if (scenario.refresh) {
    // All that a page needs to write so that its connection outlives its token without a gap.
    socket.on("socketguard:expiring", async () => {
      const answer = await socket.emitWithAck("socketguard:refresh", { token: await fetchToken(scenario.tokenUrl) });
      notes.add("refreshed", { namespace, answer });
    });
  }
}

async function step(action, sockets, notes) {
  const [socket] = sockets;
  const [kind, argument] = Object.entries(action)[0];
  switch (kind) {
    case "wait":
      return notes.next([argument].flat());
    case "more": // {kind, times}
      return notes.more(argument.kind, argument.times ?? 1, sockets.map((each) => each.nsp));
    case "signal":
      await Promise.race([signal(argument).given, over]);
      notes.forget();
      return null;
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
  if (scenario.signal) {
    signal(scenario.signal).give();
    return null;
  }
  const notes = new Notes();
  const sockets = makeSockets(scenario, notes);
  const [socket] = sockets;
  const steps = [];
  try {
    for (const action of scenario.steps ?? [{ wait: ["connect", "connect_error"] }]) {
      steps.push(await step(action, sockets, notes));
    }
    return { steps, seen: [...notes.seen], connected: socket.connected, active: socket.active };
  } finally {
    for (const each of sockets) each.disconnect();
    socket.io.engine?.close();
  }
}

serve(play);
