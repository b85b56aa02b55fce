// BullMQ as its documentation sets it up: a worker with a concurrency factor, bulk adds, bounded finished jobs.
import { setTimeout as sleep } from 'node:timers/promises';
import { Queue, Worker } from 'bullmq';

const [verb, ...numbers] = process.argv.slice(2);
const [jobs, seconds, concurrency] = numbers.map(Number);
const { hostname: host, port } = new URL(process.env.REDIS_URL);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };
const opts = { removeOnComplete: { count: 1000 }, removeOnFail: { count: 1000 } };
const BULK = 1000;

// Microseconds since 1970; Date.now() has only milliseconds.
const now = () => Math.round((performance.timeOrigin + performance.now()) * 1000);
const say = (line) => console.log(JSON.stringify(line));

if (verb === 'worker') {
  const report = { jobs: 0, first: 0, last: 0, latencies: [] };
  let told = false;
  const worker = new Worker(
    'bench',
    async (job) => {
      const moment = now();
      report.first ||= moment;
      report.latencies.push(moment - job.data.at);
    },
    { connection, concurrency },
  );
  worker.on('completed', () => {
    report.jobs += 1;
    report.last = now();
    if (!told && (report.jobs >= jobs || report.last - report.first >= seconds * 1e6)) {
      told = true;
      say(report);
    }
  });
  worker.on('error', (error) => console.error(error.message));
  await worker.waitUntilReady();
  say({ ready: true });
} else {
  const queue = new Queue('bench', { connection, defaultJobOptions: opts });
  if (verb === 'preload') {
    for (let start = 0; start < jobs; start += BULK) {
      const count = Math.min(BULK, jobs - start);
      await queue.addBulk(Array.from({ length: count }, (_, i) => ({ name: 'noop', data: { n: start + i, at: now() } })));
    }
  } else {
    for (let n = 0; n < jobs; n += 1) {
      await sleep(20 + Math.random() * 100);
      await queue.add('noop', { n, at: now() });
    }
  }
  await queue.close();
}
