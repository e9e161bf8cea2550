/*
 * An echo server for one connection at a time, with a distinctive chain of calls to
 * every system call. Each function works on after its call, so that none becomes a jump.
 *
 *   server PORT        serves until it is killed
 *   server PORT once   exits as soon as accept() has returned
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

static volatile int work;

NOINLINE int do_accept(int listener)
{
	char frame[200]; /* too large for the red zone */
	int conn;

	memset(frame, listener, sizeof(frame));
	conn = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	work += frame[conn & 63];
	return conn;
}

NOINLINE int next_client(int listener)
{
	int conn;

	do {
		conn = do_accept(listener);
		work++;
	} while (conn < 0 && errno == EINTR);
	return conn;
}

NOINLINE long read_request(int conn, char *buf, size_t size)
{
	long n = recv(conn, buf, size, 0);

	work += (int)n;
	return n;
}

NOINLINE int parse_loop(int conn)
{
	char buf[4096];
	long n;

	while ((n = read_request(conn, buf, sizeof(buf))) > 0) {
		if (write(conn, "ok\n", 3) < 0)
			break;
		work += buf[0];
	}
	return n == 0 ? work : -1;
}

NOINLINE void drop_client(int conn)
{
	close(conn);
	work++;
}

NOINLINE int handle_client(int conn)
{
	int result = parse_loop(conn);

	drop_client(conn);
	work++;
	return result;
}

NOINLINE int serve_forever(int listener)
{
	for (;;) {
		int conn = next_client(listener);

		if (conn < 0)
			return -1;
		work += handle_client(conn);
	}
}

/* Nothing follows a call of this one: its return address may be in the next function. */
NOINLINE __attribute__((noreturn)) void serve_once(int listener)
{
	_exit(next_client(listener) < 0);
}

int main(int argc, char **argv)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	int listener = socket(AF_INET, SOCK_STREAM, 0), result;

	if (argc < 2)
		return 2;
	addr.sin_port = htons(atoi(argv[1]));
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(listener, (void *)&addr, sizeof(addr)) || listen(listener, 128)) {
		perror("listen");
		return 1;
	}
	if (argc > 2)
		serve_once(listener);
	result = serve_forever(listener);
	printf("%d\n", work); /* not a tail call */
	return result;
}
