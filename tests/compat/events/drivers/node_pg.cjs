'use strict';
// pg (node-postgres).

const { Client } = require('pg');
const { main, say, facts } = require('./child.cjs');

async function connect() {
  const client = new Client({ ssl: false });
  client.on('error', (error) => say({ step: "event 'error'", ...facts(error) }));
  await client.connect();
  return {
    execute: (statement) => client.query(statement),
    transaction: async (work) => {
      await client.query('begin');
      await work((statement) => client.query(statement));
      await client.query('commit');
    },
  };
}

main(connect, ['two statements sent']);
