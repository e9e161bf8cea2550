/*
 * Accepts a connection and spins. Its SIGUSR1 handler closes the connection, unless the
 * signal comes before the spinning; then comes the next connection.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

static volatile int conn = -1, spinning, work;

NOINLINE void in_handler(void)
{
	close(conn);
	spinning = 0;
}

NOINLINE void handler(int number)
{
	if (spinning)
		in_handler();
	work += number;
}

NOINLINE void spin_inner(void)
{
	for (spinning = 1; spinning;)
		work++;
	work++;
}

NOINLINE void spin_outer(void)
{
	spin_inner();
	work++;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = handler };
	struct sockaddr_in addr = { .sin_family = AF_INET };
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	if (argc < 2)
		return 2;
	addr.sin_port = htons(atoi(argv[1]));
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	sigaction(SIGUSR1, &action, NULL);
	if (bind(listener, (void *)&addr, sizeof(addr)) || listen(listener, 128)) {
		perror("listen");
		return 1;
	}
	for (;;) {
		do
			conn = accept(listener, NULL, NULL);
		while (conn < 0 && errno == EINTR);
		if (conn < 0)
			return 1;
		spin_outer();
	}
}
