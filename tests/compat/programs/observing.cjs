'use strict';
// How a program of ours tells what it saw: a line each, the name, a tab, the value.

const DEADLINE_MS = 60000;

function steady(value) {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return String(text)
    .replaceAll(process.env.PGPASSWORD, 'PASSWORD')
    .replaceAll(process.env.PGPORT, 'PORT')
    .replace(/\s*\n\s*/g, ' | ');
}

function said(error) {
  return { name: error.constructor.name, code: error.code ?? null, severity: error.severity ?? null, message: error.message };
}

async function runAll(observations) {
  let uncaught = [];
  process.on('uncaughtException', (error) => uncaught.push(said(error)));
  process.on('unhandledRejection', (error) => uncaught.push(said(error)));
  for (const [name, observe] of Object.entries(observations)) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error('no answer in time')), DEADLINE_MS);
    });
    let value;
    try {
      value = await Promise.race([observe(), late]);
    } catch (error) {
      value = { thrown: said(error) };
    }
    clearTimeout(timer);
    await new Promise((resolve) => setTimeout(resolve, 20)); // what is thrown a moment later belongs to it too
    if (uncaught.length > 0) value = { value, uncaught };
    uncaught = [];
    process.stdout.write(`${name}\t${steady(value)}\n`);
  }
  process.exit(0);
}

async function until(isMet) {
  const deadline = Date.now() + DEADLINE_MS;
  while (!(await isMet())) {
    if (Date.now() > deadline) throw new Error('waited in vain');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

module.exports = { runAll, said, until };
