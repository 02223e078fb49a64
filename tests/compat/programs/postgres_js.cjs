'use strict';
// postgres (postgres.js), whose package ships no tests.

const postgres = require('postgres');
const { runAll, said, until } = require('./observing.cjs');

const TLS = process.env.COMPAT_WAY === 'tls' ? { ssl: { rejectUnauthorized: false } } : { ssl: false };

async function using(work, more = {}) {
  const sql = postgres({ max: 1, fetch_types: false, onnotice: () => {}, ...TLS, ...more });
  try {
    return await work(sql);
  } finally {
    await sql.end({ timeout: 5 });
  }
}

async function failure(promise) {
  try {
    await promise;
    return 'no error';
  } catch (error) {
    return said(error);
  }
}

const sleeping = (other, pid) => async () =>
  (await other`select 1 from pg_stat_activity where pid = ${pid} and wait_event = 'PgSleep'`).length === 1;

runAll({
  values: () =>
    using(async (sql) => {
      const rows = await sql`select 1::int8 a, 1.5::numeric b, 'ä€😀' c, null d, '\\x00ff'::bytea f, '{}'::json g, true h`;
      return [rows, rows.columns.map((column) => [column.name, column.type])];
    }),
  types_are_fetched: () => using(async (sql) => await sql`select '{1,2}'::int[] a`, { fetch_types: true }),
  pipelined: () =>
    using(async (sql) => {
      const all = await Promise.all(Array.from({ length: 300 }, (_, n) => sql`select ${n}::int n`));
      return all.reduce((sum, rows) => sum + rows[0].n, 0);
    }),
  simple: () => using(async (sql) => await sql.unsafe('select 1 a; select 2 b, 3 c').simple()),
  cursor: () =>
    using(async (sql) => {
      let sum = 0;
      for await (const rows of sql`select n from generate_series(1, 5000) n`.cursor(100)) for (const row of rows) sum += row.n;
      return sum;
    }),
  cursor_that_is_left: () =>
    using(async (sql) => {
      for await (const _ of sql`select n from generate_series(1, 5000) n`.cursor(100)) break;
      return await sql`select 1 n`;
    }),
  transaction: () =>
    using(async (sql) => {
      const outcome = await failure(
        sql.begin(async (inside) => {
          await inside`create temp table t (n int)`;
          await inside.savepoint((deeper) => deeper`select 1/0`).catch(() => {});
          await inside`insert into t values (1)`;
          await inside`select 1/0`;
        }),
      );
      return [outcome, await failure(sql`select * from t`)];
    }),
  copy: () =>
    using(async (sql) => {
      await sql`create temp table t (n int)`;
      const { pipeline } = require('node:stream/promises');
      const { Readable } = require('node:stream');
      await pipeline(Readable.from(Array.from({ length: 20000 }, (_, n) => `${n}\n`)), await sql`copy t from stdin`.writable());
      let size = 0;
      for await (const block of await sql`copy t to stdout`.readable()) size += block.length;
      return [await sql`select count(*), sum(n) from t`, size];
    }),
  errors: () =>
    using(async (sql) => [
      await failure(sql`select 1/0`),
      await failure(sql`select * from nowhere`),
      (await sql`select 4 n`)[0],
    ]),
  notifications: () =>
    using((listener) =>
      using(async (sender) => {
        const found = [];
        await listener.listen('c', (payload) => found.push(payload.length));
        for (let n = 0; n < 20; n++) await sender.notify('c', 'x'.repeat(5000 + n));
        await until(() => found.length === 20);
        return found;
      }),
    ),
  cancelled: () =>
    using((sql) =>
      using(async (other) => {
        const [{ pid }] = await sql`select pg_backend_pid() pid`;
        const query = sql`select pg_sleep(60)`;
        const outcome = failure(query);
        await until(sleeping(other, pid));
        query.cancel();
        return [await outcome, await sql`select 1 n`];
      }),
    ),
  terminated_when_busy: () =>
    using((sql) =>
      using(async (other) => {
        const [{ pid }] = await sql`select pg_backend_pid() pid`;
        const outcome = failure(sql`select pg_sleep(60)`);
        await until(sleeping(other, pid));
        await other`select pg_terminate_backend(${pid})`;
        return [await outcome, await sql`select 1 n`];
      }),
    ),
  wrong_password: () => using((sql) => failure(sql`select 1`), { password: 'no' }),
  unknown_database: () => using((sql) => failure(sql`select 1`), { database: 'nowhere' }),
  read_write: () => using(async (sql) => await sql`select pg_is_in_recovery() r`, { target_session_attrs: 'read-write' }),
  large: () =>
    using(async (sql) => {
      const [down] = await sql`select repeat('x', 20000000) v`;
      const [up] = await sql`select length(${'y'.repeat(20000000)}) n`;
      return [down.v.length, up.n];
    }),
  many_sessions: () =>
    using(
      async (sql) => {
        const all = await Promise.all(Array.from({ length: 200 }, (_, n) => sql`select ${n}::int n, pg_sleep(0.01)`));
        return all.reduce((sum, rows) => sum + rows[0].n, 0);
      },
      { max: 10 },
    ),
});
