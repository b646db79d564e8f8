// pg-boss 12.35.0, the newest whose dependencies could all be resolved when it was pinned.
//
// https://timgit.github.io/pg-boss/#/./api/workers : batchSize, localConcurrency, burstWhenBatchFull (no pause while
// batches come back full), LISTEN/NOTIFY for the queue; a batch's handler returns once and completes all of its jobs.
//
// Tried: batchSize 1000 with 1, 2, 4 local workers, alike; 3000 with 2, half as fast again.

import { args, load, main, now, settings } from "./_protocol.mjs";

const { PgBoss } = load("pg-boss");
const QUEUE = "bench";
const tuned = settings({ batchSize: 3000, localConcurrency: 2, poolSize: 10, bulk: 20000 });

async function connect(max, useListenNotify = false) {
  const boss = new PgBoss({ connectionString: args.dsn, max, useListenNotify, supervise: useListenNotify, schedule: false });
  boss.on("error", (error) => console.error(error));
  await boss.start();
  return boss;
}

main({
  settings: tuned,
  unfinished: `SELECT count(*) FROM pgboss.job WHERE name = '${QUEUE}' AND state < 'completed'`,
  pending: `SELECT 1 FROM pgboss.job WHERE name = '${QUEUE}' AND state < 'completed' LIMIT 1`,
  tables: ["pgboss.job%", "pgboss.queue"],

  async setup() {
    const boss = await connect(2);
    await boss.createQueue(QUEUE, { notify: true });
  },

  async enqueue(n) {
    const boss = await connect(2);
    const start = now();
    for (let at = 0; at < n; at += tuned.bulk) {
      await boss.insert(QUEUE, Array.from({ length: Math.min(tuned.bulk, n - at) }, () => ({})));
    }
    return now() - start;
  },

  async start(handle, concurrency, taskMs) {
    const boss = await connect(tuned.poolSize, true);
    // With tasks that take time at most `concurrency` may run: localConcurrency workers, each with its share in a batch.
    const localConcurrency = tuned.localConcurrency;
    const batchSize = concurrency ? Math.max(1, Math.floor(concurrency / localConcurrency)) : tuned.batchSize;
    const options = { batchSize, localConcurrency, burstWhenBatchFull: batchSize > 1, pollingIntervalSeconds: 0.5 };
    await boss.work(QUEUE, options, async (jobs) => {
      if (taskMs) await Promise.all(jobs.map(() => handle()));
      else for (const _ of jobs) handle();
    });
  },

  async creator(clients) {
    const boss = await connect(clients);
    return Array(clients).fill(() => boss.send(QUEUE, {}));
  },
});
