// A keep-alive agent whose event loop is then blocked by a synchronous wait, as by a
// long computation: nobody polls its idle connections. pool.js PORT N
const http = require('http');
const port = +process.argv[2], n = +process.argv[3];
const agent = new http.Agent({ keepAlive: true, maxSockets: n, maxFreeSockets: n });

function blockLoop() {
	console.log('idle');
	Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}

function whenIdle() {
	const free = Object.values(agent.freeSockets).flat().length;
	// Not within the callback: what is printed must be written first.
	free === n ? setTimeout(blockLoop, 10) : setTimeout(whenIdle, 5);
}

for (let i = 0; i < n; i++)
	http.get({ port, host: '127.0.0.1', path: '/hi', agent }, (answer) => answer.resume());
whenIdle();
