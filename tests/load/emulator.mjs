// fauxqs on the loopback interface, with a gate and a counter before it.
//
//   node emulator.mjs FAUXQS_APP_JS PORT
//
// GET  /_bench/QUEUE         what happened on the queue since its gate was closed last
// POST /_bench/QUEUE/close   hold back every ReceiveMessage, and count from zero
// POST /_bench/QUEUE/open    let them go: the clock starts here
//
// A call is counted when it is handed to the emulator: a held one when the gate opens.
import { pathToFileURL } from "node:url";

const [, , fauxqs, port] = process.argv;
const { buildApp } = await import(pathToFileURL(fauxqs));
const app = buildApp({ logger: false });

const queues = new Map();

function named(name) {
  if (!queues.has(name)) queues.set(name, fresh(false));
  return queues.get(name);
}

function fresh(closed) {
  const counts = { calls: {}, sent: 0, received: 0, deleted: 0, sending: [], callsAtLastDelete: {} };
  return { closed, held: [], openedAt: null, lastDeleteAt: null, ...counts };
}

function asked(request) {
  const action = request.headers["x-amz-target"]?.replace("AmazonSQS.", "");
  const url = request.body?.QueueUrl;
  return action && url ? { action, queue: named(url.split("/").pop()) } : {};
}

app.addHook("preHandler", async (request) => {
  const { action, queue } = asked(request);
  if (!queue) return;
  if (action === "ReceiveMessage" && queue.closed) {
    await new Promise((go) => queue.held.push(go));
  }
  queue.calls[action] = (queue.calls[action] ?? 0) + 1;
  if (action.startsWith("SendMessage")) queue.sending[0] ??= performance.now();
});

app.addHook("preSerialization", async (request, reply, answer) => {
  const { action, queue } = asked(request);
  if (!queue || reply.statusCode !== 200) return answer;
  if (action === "ReceiveMessage") {
    queue.received += answer.Messages?.length ?? 0;
  } else if (action.startsWith("DeleteMessage")) {
    queue.deleted += action === "DeleteMessageBatch" ? answer.Successful.length : 1;
    queue.lastDeleteAt = performance.now();
    queue.callsAtLastDelete = { ...queue.calls };
  } else if (action.startsWith("SendMessage")) {
    queue.sent += action === "SendMessageBatch" ? answer.Successful.length : 1;
    queue.sending[1] = performance.now();
  }
  return answer;
});

app.get("/_bench/:queue", async (request) => {
  const { held, openedAt, lastDeleteAt, sending, ...counts } = named(request.params.queue);
  return {
    ...counts,
    held: held.length,
    drainSeconds: (lastDeleteAt - openedAt) / 1000,
    sendSeconds: (sending[1] - sending[0]) / 1000,
  };
});

app.post("/_bench/:queue/close", async (request) => {
  queues.set(request.params.queue, fresh(true));
  return {};
});

app.post("/_bench/:queue/open", async (request) => {
  const queue = named(request.params.queue);
  queue.closed = false;
  queue.openedAt = performance.now();
  for (const go of queue.held.splice(0)) go();
  return {};
});

await app.listen({ port: Number(port), host: "127.0.0.1" });
process.on("SIGTERM", () => process.exit(0));
