// What every Node adapter shares, as _protocol.py does for Python: command line, clock, the one JSON line at the end.
//
// The packages live in the peers' environment, not beside this file: PEERS_NODE names the folder of its node_modules.

import { createRequire } from "node:module";
import { writeSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    env: { type: "string" },
    dsn: { type: "string" },
    variant: { type: "string" },
    n: { type: "string", default: "1000" },
    concurrency: { type: "string", default: "0" },
    "task-ms": { type: "string", default: "0" },
    "seconds-max": { type: "string", default: "0" },
    clients: { type: "string", default: "1" },
    set: { type: "string", multiple: true, default: [] },
  },
});

export const load = createRequire(join(values.env, "package.json"));
const { Client, Pool } = load("pg");

export const args = {
  action: positionals[0],
  dsn: values.dsn,
  variant: values.variant,
  n: Number(values.n),
  concurrency: Number(values.concurrency),
  taskMs: Number(values["task-ms"]),
  secondsMax: Number(values["seconds-max"]),
  clients: Number(values.clients),
};

const SETTLE_POLL = 3;
const SILENCE = 500;
const GAP = 15;

export function pool(max) {
  const made = new Pool({ connectionString: args.dsn, max, min: max });
  made.on("error", (error) => console.error(error));
  made.on("connect", (client) => client.on("error", (error) => console.error(error)));
  return made;
}
export const now = () => performance.now() / 1000;
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export function settings(defaults) {
  const merged = { ...defaults };
  for (const pair of values.set) {
    const [name, value] = pair.split("=");
    merged[name] = Number.isNaN(Number(value)) ? value : Number(value);
  }
  return merged;
}

async function connect() {
  const client = new Client({ connectionString: args.dsn });
  await client.connect();
  return client;
}

async function drain(peer) {
  const monitor = await connect();
  const count = async (query) => Number((await monitor.query(query)).rows[0].count);
  const work = { handled: 0, running: 0, most: 0, first: null };
  let allHandled;
  const done = new Promise((resolve) => (allHandled = resolve));
  // Synchronous where nothing sleeps: a no-op handler must not pay for a promise that its peer does not ask for.
  const handle = () => {
    if (work.first === null) work.first = now();
    if (args.taskMs) {
      work.most = Math.max(work.most, ++work.running);
      return sleep(args.taskMs).then(() => {
        work.running--;
        if (++work.handled >= args.n) allHandled();
      });
    }
    if (++work.handled >= args.n) allHandled();
  };
  const before = await count(peer.unfinished);
  const asked = now();
  await peer.start(handle, args.concurrency, args.taskMs);
  const deadline = args.secondsMax ? asked + args.secondsMax : Infinity;
  let handled = -1;
  let complete = false;
  for (;;) {
    if (work.handled < args.n) {
      const wait = Math.min(SILENCE, Math.max(0, (deadline - now()) * 1000));
      let timer;
      await Promise.race([done, new Promise((resolve) => (timer = setTimeout(resolve, wait)))]);
      clearTimeout(timer);
    }
    const silent = work.handled >= args.n || work.handled === handled;
    handled = work.handled;
    if (silent && (await count(`SELECT count(*) FROM (${peer.pending}) AS p`)) === 0) {
      complete = true;
      break;
    }
    if (now() >= deadline) break;
    if (work.handled >= args.n) await sleep(SETTLE_POLL);
  }
  const ended = now();
  const left = await count(peer.unfinished);
  const first = work.first ?? ended;
  const epoch = Date.now() / 1000 - now();
  return {
    n: before - left,
    seconds: work.first === null ? ended - asked : ended - first,
    complete: complete && left === 0,
    handled: work.handled,
    ready_seconds: first - asked,
    started: epoch + first,
    ended: epoch + ended,
    most_running: work.most,
    settings: peer.settings,
  };
}

async function latency(peer) {
  let at = 0;
  let started;
  const handle = () => {
    at = now();
    started();
  };
  started = () => {};
  const [create] = await peer.creator(1);
  await peer.start(handle, args.concurrency, 0);
  const deadline = args.secondsMax ? now() + args.secondsMax : Infinity;
  await sleep(1000);
  const warmUp = Math.min(20, Math.floor(args.n / 10));
  const samples = [];
  while (samples.length < args.n + warmUp && now() < deadline) {
    const begun = new Promise((resolve) => (started = resolve));
    const start = now();
    await create();
    await begun;
    samples.push((at - start) * 1000);
    await sleep(GAP * (0.7 + 0.6 * Math.random()));
  }
  const sorted = samples.slice(warmUp).sort((a, b) => a - b);
  const n = sorted.length;
  if (!n) return { n: 0, p50_ms: null, p99_ms: null, mean_ms: null, complete: false };
  return {
    n,
    p50_ms: sorted[Math.floor(n / 2)],
    p99_ms: sorted[Math.min(n - 1, Math.floor(n * 0.99))],
    mean_ms: sorted.reduce((a, b) => a + b) / n,
    max_ms: sorted[n - 1],
    complete: n === args.n,
    settings: peer.settings,
  };
}

async function create(peer) {
  const creators = await peer.creator(args.clients);
  const share = Math.floor(args.n / args.clients);
  const client = async (one, times) => {
    for (let i = 0; i < times; i++) await one();
  };
  await Promise.all(creators.map((one) => client(one, 1)));
  const start = now();
  await Promise.all(creators.map((one) => client(one, share)));
  const seconds = now() - start;
  return { n: share * args.clients, seconds, rate: (share * args.clients) / seconds };
}

export async function main(peer) {
  // stdout carries the answer and nothing else.
  console.log = console.info = console.error;
  let answer;
  if (args.action === "setup") {
    const start = now();
    await peer.setup();
    answer = { seconds: now() - start };
  } else if (args.action === "enqueue") {
    const seconds = await peer.enqueue(args.n);
    const monitor = await connect();
    await monitor.query("ANALYZE"); // what autovacuum would do within the minute
    answer = { n: args.n, seconds };
  } else if (args.action === "drain") {
    answer = await drain(peer);
  } else if (args.action === "latency") {
    answer = await latency(peer);
  } else if (args.action === "create") {
    answer = await create(peer);
  } else if (args.action === "tables") {
    const monitor = await connect();
    const { rows } = await monitor.query(
      "SELECT schemaname || '.' || relname AS name FROM pg_stat_user_tables WHERE schemaname || '.' || relname LIKE ANY ($1) ORDER BY 1",
      [peer.tables],
    );
    answer = { tables: rows.map(({ name }) => name) };
  } else {
    throw new Error(`no such action: ${args.action}`);
  }
  writeSync(1, JSON.stringify(answer) + "\n");
  process.exit(0);
}
