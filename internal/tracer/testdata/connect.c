// SPDX-License-Identifier: Apache-2.0
// Connects to 127.0.0.1:argv[1] argv[2] times, at the end of a chain of calls without
// frame pointers, and resets each connection.
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define DEPTH 17

static struct sockaddr_in to;

static void once(void)
{
	struct linger reset = {1, 0};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to))) {
		perror("connect");
		exit(1);
	}
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(fd);
}

__attribute__((noinline)) static int deeper(int n)
{
	volatile char room[48];

	room[0] = n;
	if (n > 0)
		n = deeper(n - 1);
	else
		once();
	return n + room[0];
}

int main(int argc, char **argv)
{
	to.sin_family = AF_INET;
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	to.sin_port = htons(atoi(argv[1]));
	getchar();
	for (int i = atoi(argv[2]); argc > 2 && i > 0; i--)
		deeper(DEPTH);
	return 0;
}
