// Blocks in a chain of calls of every kind, for as long as nobody writes to the FIFO that is
// its argument. Prints, as a line of JSON, what V8 itself says of the stack.
'use strict';
const fs = require('fs');
const path = process.argv[2];

Error.stackTraceLimit = Infinity;

function stack() {
  const prepare = Error.prepareStackTrace;
  Error.prepareStackTrace = (_, sites) => sites;
  const sites = new Error().stack;
  Error.prepareStackTrace = prepare;
  return sites.slice(1).map((s) => ({
    function: s.getFunctionName() || '',
    file: s.getFileName() || '',
  }));
}

function innermost() {
  const fd = fs.openSync(path, 'r+');
  fs.writeSync(1, JSON.stringify({ pid: process.pid, frames: stack() }) + '\n');
  fs.readSync(fd, Buffer.alloc(1));
}

function é() { innermost(); }
function 工作() { é(); }
function Ω𠀀() { 工作(); }

class Base {
  constructor() { this.method(); }
  method() { Ω𠀀(); }
}
class Derived extends Base {
  #hidden = 1;
  static make() { return new Derived(); }
  get value() { return Derived.make().#hidden; }
}

function Old() {}
Old.prototype.inferred = function () { return new Derived().value; };

// Its variables are too many for their names to be in its ScopeInfo.
const many = Array.from({ length: 100 }, (_, i) => `v${i}`);
const manyLocals = eval(`(function manyLocals() {
  ${many.map((v) => `let ${v} = 1;`).join(' ')}
  (() => { ${many.map((v) => `${v}++;`).join(' ')} })();
  new Old().inferred();
})`);

// Files whose names are strings of several parts, or parts of one.
const vm = require('vm');
const run = (filename, next) => {
  const f = vm.runInThisContext('(function inFile(next) { next(); })', { filename });
  return () => f(next);
};
const two = run('/nowhere/' + 'two parts'.repeat(process.argv.length), manyLocals);
const part = run(('cut off /nowhere/a part of ' + '日本'.repeat(9)).slice(8), two);

function* generate() { yield part(); }
async function asynchronous() { for (const _ of generate()); }

const arrow = () => asynchronous();
[1].forEach(() => { [3, 2].sort(() => { arrow(); return 0; }); });
