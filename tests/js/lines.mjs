// One JSON object per line on stdin is a task, one per line on stdout its result: a driver starts once for all tests.
import { createInterface } from "node:readline";

export function serve(run, close = async () => {}) {
  const running = new Set();
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => {
    const { id, ...task } = JSON.parse(line);
    const done = run(task)
      .then((result) => ({ id, result }))
      .catch((error) => ({ id, error: error.stack ?? String(error) }))
      .then((answer) => process.stdout.write(JSON.stringify(answer) + "\n"))
      .finally(() => running.delete(done));
    running.add(done);
  });
  lines.on("close", async () => {
    await Promise.allSettled(running);
    await close();
    process.exit(0);
  });
}
