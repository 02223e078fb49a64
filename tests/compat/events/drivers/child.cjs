'use strict';
// The application's part of an event, the same for both drivers of Node; as child.py.

const lines = [];
let waiting = null;
require('node:readline')
  .createInterface({ input: process.stdin })
  .on('line', (line) => (waiting ? waiting(line) : lines.push(line)))
  .on('close', () => process.exit(0));

const hear = () =>
  new Promise((resolve) => {
    if (lines.length > 0) resolve(lines.shift());
    else waiting = (line) => ((waiting = null), resolve(line));
  });

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

function facts(error) {
  return { error: error.constructor.name, sqlstate: error.code ?? null, text: String(error.message).slice(0, 200) };
}

async function attempt(step, act, isFatal = false) {
  const begun = Date.now();
  const after = () => Math.round((Date.now() - begun) / 100) / 10;
  try {
    const value = await act();
    say({ step, after_s: after() });
    return value;
  } catch (error) {
    say({ step, after_s: after(), ...facts(error) });
    if (isFatal) throw error;
    return null;
  }
}

process.on('uncaughtException', (error) => say({ step: 'uncaught', ...facts(error) }));
process.on('unhandledRejection', (error) => say({ step: 'unhandled', ...facts(error) }));

// connect() returns { execute(statement), transaction(work) }
async function play(event, connect) {
  if (event.startsWith('login')) {
    say({ ready: true });
    await hear();
    await attempt('connect', connect);
    return;
  }
  const session = await connect();
  await session.execute('select 1');
  if (['transaction', 'running', 'switchover in a transaction', 'commit'].includes(event)) {
    await attempt('transaction', () =>
      session.transaction(async (execute) => {
        await execute(`insert into ${event === 'commit' ? 'slow' : 'quick'} values (1)`);
        say({ ready: true });
        if (event === 'commit') return;
        if (event === 'running') return attempt('statement', () => execute('select pg_sleep(60)'), true);
        await hear();
        await attempt('statement', () => execute('insert into quick values (2)'), true);
      }),
    );
    if (event === 'switchover in a transaction') {
      say({ committed: true });
      await hear();
    }
  } else if (event === 'alone') {
    say({ ready: true });
    await attempt('statement', () => session.execute('insert into quick select 1 from pg_sleep(60)'));
  } else if (event === 'two statements sent') {
    say({ ready: true });
    await Promise.all([
      attempt('the first', () => session.execute('insert into quick select 1 from pg_sleep(60)')),
      attempt('the second', () => session.execute('select 2')),
    ]);
  } else {
    say({ ready: true });
    await hear();
    await attempt('statement', () => session.execute('insert into quick values (2)'));
  }
  await attempt('next statement', () => session.execute('select 1'));
  await attempt('new connection', connect);
}

async function main(connect, special = []) {
  if (process.argv[2] === '--special') {
    process.stdout.write(`${JSON.stringify(special)}\n`);
    process.exit(0);
  }
  await play(process.argv[2], connect);
  process.exit(0);
}

module.exports = { main, say, facts };
