/*
 * A server that starts a daemon by fork() while it has N connections, and does not close
 * them in it. It then serves and closes each, as its client sends a line.
 *
 *   inherit PORT N
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int start_daemon(void)
{
	int pid = fork();

	if (pid == 0) {
		prctl(PR_SET_NAME, "inheritor");
		for (;;)
			pause();
	}
	return pid;
}

static void serve(struct pollfd *client)
{
	char buf[512];
	long n = read(client->fd, buf, sizeof(buf));

	if (n > 0 && write(client->fd, "ok\n", 3) < 0)
		perror("write");
	close(client->fd);
	client->fd = -1;
}

int main(int argc, char **argv)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	int listener = socket(AF_INET, SOCK_STREAM, 0), n, i;
	struct pollfd *clients;

	if (argc < 3)
		return 2;
	n = atoi(argv[2]);
	clients = calloc(n, sizeof(*clients));
	addr.sin_port = htons(atoi(argv[1]));
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(listener, (void *)&addr, sizeof(addr)) || listen(listener, 128)) {
		perror("listen");
		return 1;
	}
	for (i = 0; i < n; i++) {
		clients[i].fd = accept(listener, NULL, NULL);
		clients[i].events = POLLIN;
	}
	printf("daemon %d.\n", start_daemon());
	fflush(stdout);
	while (poll(clients, n, -1) > 0) {
		for (i = 0; i < n; i++)
			if (clients[i].revents)
				serve(&clients[i]);
	}
	return 1;
}
