/**
 * Keeps Socket.IO connections to a server guarded by socketguard open, with fresh tokens. No dependencies: copy this
 * file into your application.
 *
 *     import { keepFresh } from "./refresh.js";
 *
 *     keepFresh([messages, scheduler], fetchToken, {
 *       onRefused: (socket, answer) => { if (answer.retry === "login") location.assign("/login"); },
 *     });
 *
 * Some seconds before its token ends, a client gets "socketguard:expiring" in each namespace. Then a fresh token is
 * fetched, once for all namespaces that ask at the same time, and sent as "socketguard:refresh" in each of them. The
 * connection goes on: no reconnect, no lost event, the same rooms.
 *
 * It is a comfort, not a need. Without it, or when it fails, the server closes the connection when the token ends, and
 * a client with `auth` as a function comes back by itself with a fresh one. So give `auth` as a function all the same.
 *
 * @param {Socket | Socket[]} sockets  of socket.io-client, 4.4 or newer; each is a namespace
 * @param {() => Promise<string>} fetchToken  gets a fresh token of the same user; not one from a cache
 * @param {object} [options]
 * @param {number} [options.timeout]  milliseconds that the server has for its answer
 * @param {number} [options.attempts]  how often a failure that may pass is tried again
 * @param {(socket, seconds) => void} [options.onRefreshed]  called with the seconds until the connection ends now; null
 *     when it doesn't end
 * @param {(socket, answer) => void} [options.onRefused]  called when it was given up, with what the server said:
 *     {code, message, retry, ref}. The old token runs on to its end. When fetchToken failed, the code is
 *     "token_unavailable"; when the server did not answer, "no_answer".
 * @returns {() => void}  call it to stop
 */
export function keepFresh(sockets, fetchToken, { timeout = 10_000, attempts = 3, onRefreshed, onRefused } = {}) {
  let fetching = null; // shared by the namespaces whose notice comes at the same moment

  function token() {
    fetching ??= Promise.resolve().then(fetchToken).finally(() => { fetching = null; });
    return fetching;
  }

  async function refresh(socket) {
    const { id } = socket; // another one after a reconnect, which had a fresh token of its own
    const gone = () => stopped || !socket.connected || socket.id !== id;
    for (let attempt = 1; ; attempt++) {
      const answer = await ask(socket, gone);
      if (gone()) return;
      if (answer.ok) {
        onRefreshed?.(socket, answer.expires_in);
        return;
      }
      if (answer.retry !== "backoff" || attempt >= attempts) {
        onRefused?.(socket, answer);
        return;
      }
      await new Promise((resolve) => { setTimeout(resolve, 1000 * (answer.retry_after ?? attempt)); });
      if (gone()) return;
    }
  }

  async function ask(socket, gone) {
    let fresh;
    try {
      fresh = await token();
    } catch (error) {
      return { ok: false, code: "token_unavailable", message: String(error?.message ?? error), retry: "backoff" };
    }
    if (gone()) return {}; // emitted now, it would wait for the next connection
    return new Promise((resolve) => {
      socket.timeout(timeout).emit("socketguard:refresh", { token: fresh }, (error, answer) => {
        resolve(error ? { ok: false, code: "no_answer", message: error.message, retry: "backoff" } : answer);
      });
    });
  }

  let stopped = false;
  const watched = [sockets].flat().map((socket) => {
    const listener = () => { refresh(socket); };
    socket.on("socketguard:expiring", listener);
    return () => { socket.off("socketguard:expiring", listener); };
  });
  return () => {
    stopped = true;
    for (const leave of watched) leave();
  };
}
