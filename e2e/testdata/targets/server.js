// An echo server: server.js PORT. A client that sends a number makes it connect to that
// port instead.
'use strict';
const net = require('net');

const kept = [];

function dropAll() {
  for (const conn of kept.splice(0)) conn.destroy();
}

function onEnd(conn) {
  kept.push(conn);
  dropAll();
}

function dial(port) {
  const conn = net.connect(port, '127.0.0.1');
  conn.on('connect', () => conn.end());
  conn.on('error', () => {});
}

function onData(conn, data) {
  const port = Number(data);
  if (port > 0) dial(port);
  conn.write('ok\n');
}

function onConn(conn) {
  conn.on('data', function dataCb(data) { onData(conn, data); });
  conn.on('end', function endCb() { onEnd(conn); });
  conn.on('error', () => {});
}

// With allowHalfOpen the end is ours to answer.
net.createServer({ allowHalfOpen: true }, onConn).listen(Number(process.argv[2]), '127.0.0.1');
