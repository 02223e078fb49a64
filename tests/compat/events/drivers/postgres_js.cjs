'use strict';
// postgres (postgres.js): a pool of one, which connects anew by itself.

const postgres = require('postgres');
const { main } = require('./child.cjs');

async function connect() {
  const sql = postgres({ max: 1, fetch_types: false, ssl: false, onnotice: () => {} });
  const session = {
    execute: (statement) => sql.unsafe(statement),
    transaction: (work) => sql.begin((inside) => work((statement) => inside.unsafe(statement))),
  };
  await session.execute('select 1');
  return session;
}

main(connect, ['two statements sent']);
