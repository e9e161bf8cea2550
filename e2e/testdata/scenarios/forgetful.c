/*
 * A server that reads each request to its end and forgets the socket.
 *
 *   forgetful PORT         keeps every descriptor
 *   forgetful PORT close   closes them: the same server without the bug
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

static volatile int work;

NOINLINE long read_line(int conn, char *buf, size_t size)
{
	long n = read(conn, buf, size);

	work += (int)n;
	return n;
}

/* Returns at the end of the stream, as if somebody else closed. */
NOINLINE void handle_session(int conn)
{
	char buf[512];

	while (read_line(conn, buf, sizeof(buf)) > 0) {
		if (write(conn, "ok\n", 3) < 0)
			break;
	}
	work++;
}

int main(int argc, char **argv)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	if (argc < 2)
		return 2;
	addr.sin_port = htons(atoi(argv[1]));
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(listener, (void *)&addr, sizeof(addr)) || listen(listener, 128)) {
		perror("listen");
		return 1;
	}
	for (;;) {
		int conn = accept(listener, NULL, NULL);

		if (conn < 0)
			return 1;
		handle_session(conn);
		if (argc > 2)
			close(conn);
	}
}
