// graphile-worker 0.18.0: as it comes (`--variant default`), and batched (`--variant batched`).
//
// https://worker.graphile.org/docs/performance : both variants with the concurrency and the pool of its own performance
// test, `batched` with its localQueue and its completion batches without delay.
//
// Tried, default: 10, 24, 48 concurrent jobs, within noise. Batched: localQueue 500 (the page's), 2000 a fifth to two
// thirds faster; 24 and 100 concurrent jobs, alike; a delay of 0 and of 5 ms, alike.

import { args, load, main, now, pool, settings } from "./_protocol.mjs";

const { Logger, makeWorkerUtils, run, runMigrations } = load("graphile-worker");
const logger = new Logger(() => () => {});
const batched = args.variant === "batched";
const tuned = settings(
  batched
    ? { concurrentJobs: 24, maxPoolSize: 25, localQueue: 2000, batchDelay: 0, bulk: 20000 }
    : { concurrentJobs: 24, maxPoolSize: 25, localQueue: -1, batchDelay: -1, bulk: 20000 },
);

main({
  settings: tuned,
  unfinished: "SELECT count(*) FROM graphile_worker._private_jobs",
  pending: "SELECT 1 FROM graphile_worker._private_jobs LIMIT 1",
  tables: ["graphile_worker._private_jobs"],

  async setup() {
    const pgPool = pool(2);
    await runMigrations({ pgPool, logger });
  },

  async enqueue(n) {
    const utils = await makeWorkerUtils({ pgPool: pool(2), logger });
    const start = now();
    for (let at = 0; at < n; at += tuned.bulk) {
      const jobs = Array.from({ length: Math.min(tuned.bulk, n - at) }, () => ({ identifier: "noop" }));
      await utils.addJobs(jobs);
    }
    return now() - start;
  },

  async start(handle, concurrency) {
    const concurrentJobs = concurrency || tuned.concurrentJobs;
    await run({
      preset: {
        worker: {
          connectionString: args.dsn,
          maxPoolSize: tuned.maxPoolSize,
          concurrentJobs,
          localQueue: { size: tuned.localQueue },
          completeJobBatchDelay: tuned.batchDelay,
          failJobBatchDelay: tuned.batchDelay,
        },
      },
      logger,
      noHandleSignals: true,
      taskList: { noop: () => handle() },
      parsedCronItems: [],
    });
  },

  async creator(clients) {
    const utils = await makeWorkerUtils({ pgPool: pool(clients), logger });
    return Array(clients).fill(() => utils.addJob("noop", {}));
  },
});
