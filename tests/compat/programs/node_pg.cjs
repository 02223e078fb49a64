'use strict';
// pg (node-postgres), whose package ships no tests.

const { Client, Pool } = require('pg');
const { runAll, said, until } = require('./observing.cjs');

const TLS = process.env.COMPAT_WAY === 'tls' ? { ssl: { rejectUnauthorized: false } } : { ssl: false };

async function connected(more = {}) {
  const client = new Client({ ...TLS, ...more });
  client.on('error', () => {});
  await client.connect();
  return client;
}

async function using(work, more = {}) {
  const client = await connected(more);
  try {
    return await work(client);
  } finally {
    await client.end();
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

runAll({
  values: () =>
    using(async (client) => {
      const query = "select 1::int8 a, 1.5::numeric b, 'ä€😀' c, null d, '{1,2}'::int[] e, '\\x00ff'::bytea f, '{}'::json g, true h";
      const result = await client.query(query);
      return [result.rows, result.fields.map((field) => [field.name, field.dataTypeID])];
    }),
  parameters: () => using(async (client) => (await client.query('select $1::int + $2::int as sum', [1, 2])).rows),
  prepared: () =>
    using(async (client) => {
      const found = [];
      for (let n = 0; n < 5; n++) found.push((await client.query({ name: 'p', text: 'select $1::int n', values: [n] })).rows[0].n);
      return found;
    }),
  queued: () =>
    using(async (client) => {
      const all = await Promise.all(Array.from({ length: 300 }, (_, n) => client.query('select $1::int n', [n])));
      return all.reduce((sum, result) => sum + result.rows[0].n, 0);
    }),
  several: () => using(async (client) => (await client.query('select 1 a; select 2 b, 3 c')).map((result) => result.rows)),
  large: () =>
    using(async (client) => {
      const down = await client.query("select repeat('x', 20000000) v");
      const up = await client.query('select length($1) n', ['y'.repeat(20000000)]);
      return [down.rows[0].v.length, up.rows[0].n];
    }),
  errors: () =>
    using(async (client) => [
      await failure(client.query('select 1/0')),
      await failure(client.query('select * from nowhere')),
      await failure(client.query('select $1::int', ['no number'])),
      (await client.query('select 4 n')).rows,
    ]),
  failed_transaction: () =>
    using(async (client) => {
      await client.query('begin');
      const first = await failure(client.query('select 1/0'));
      const second = await failure(client.query('select 1'));
      return [first.code, second.code, (await client.query('commit')).command];
    }),
  notices: () =>
    using(async (client) => {
      const found = [];
      client.on('notice', (notice) => found.push([notice.severity, notice.message]));
      await client.query("do $$ begin for i in 1..100 loop raise notice 'n %', i; end loop; end $$");
      return [found.length, found[0], found[99]];
    }),
  notifications: () =>
    using((listener) =>
      using(async (sender) => {
        const found = [];
        listener.on('notification', (message) => found.push(message.payload.length));
        await listener.query('listen c');
        for (let n = 0; n < 20; n++) await sender.query("select pg_notify('c', repeat('x', $1::int))", [5000 + n]);
        await until(() => found.length === 20);
        return found;
      }),
    ),
  cancelled: () =>
    using((client) =>
      using(async (other) => {
        const outcome = failure(client.query('select pg_sleep(60)'));
        const sleeps = "select 1 from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'";
        await until(async () => (await other.query(sleeps, [client.processID])).rowCount === 1);
        await other.query('select pg_cancel_backend($1)', [client.processID]);
        return [await outcome, (await client.query('select 1 n')).rows];
      }),
    ),
  terminated_when_idle: () =>
    using(async (other) => {
      const client = await connected();
      const ended = new Promise((resolve) => client.once('error', resolve));
      await other.query('select pg_terminate_backend($1)', [client.processID]);
      return [said(await ended), await failure(client.query('select 1'))];
    }),
  terminated_when_busy: () =>
    using(async (other) => {
      const client = await connected();
      const outcome = failure(client.query('select pg_sleep(60)'));
      const sleeps = "select 1 from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'";
      await until(async () => (await other.query(sleeps, [client.processID])).rowCount === 1);
      await other.query('select pg_terminate_backend($1)', [client.processID]);
      return outcome;
    }),
  wrong_password: () => failure(connected({ password: 'no' })),
  unknown_role: () => failure(connected({ user: 'nobody', password: 'no' })),
  unknown_database: () => failure(connected({ database: 'nowhere' })),
  bad_option: () => failure(connected({ options: '-c no_such_setting=1' })),
  statement_timeout: () => using((client) => failure(client.query('select pg_sleep(60)')), { statement_timeout: 200 }),
  end_before_the_connection_is_there: () => {
    // The first words of such a client are a goodbye.
    const client = new Client(TLS);
    const found = [];
    client.on('error', (error) => found.push(said(error)));
    client.connect((error) => found.push(error ? 'not connected' : 'connected'));
    return new Promise((resolve) => client.end(() => resolve('ended'))).then((word) => [word, found.length > 1]);
  },
  end_while_queries_wait: () => {
    const client = new Client(TLS);
    client.connect();
    const waiting = client.query('select 1 n');
    return client.end().then(async () => (await waiting).rows);
  },
  pool: async () => {
    const pool = new Pool({ ...TLS, max: 10 });
    const all = await Promise.all(Array.from({ length: 200 }, (_, n) => pool.query('select $1::int n', [n])));
    const sizes = [pool.totalCount, pool.waitingCount];
    await pool.end();
    return [all.reduce((sum, result) => sum + result.rows[0].n, 0), sizes];
  },
  process_number: () =>
    using(async (client) => (await client.query('select pg_backend_pid() n')).rows[0].n === client.processID),
});
