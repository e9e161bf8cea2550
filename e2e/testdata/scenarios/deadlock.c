/*
 * A thread for each connection; all of them want a lock that one keeps: deadlock PORT
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

static pthread_mutex_t quota = PTHREAD_MUTEX_INITIALIZER;
static volatile int charged;

NOINLINE void charge_quota(int conn)
{
	pthread_mutex_lock(&quota);
	charged += conn;
	pthread_mutex_unlock(&quota);
}

NOINLINE void *serve_client(void *arg)
{
	int conn = (int)(long)arg;
	char buf[512];
	long n;

	charge_quota(conn);
	n = read(conn, buf, sizeof(buf));
	if (n > 0)
		n = write(conn, buf, n);
	close(conn);
	return (void *)n;
}

int main(int argc, char **argv)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	if (argc < 2)
		return 2;
	addr.sin_port = htons(atoi(argv[1]));
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	/* Whoever took it waits for something that does not come. */
	pthread_mutex_lock(&quota);
	if (bind(listener, (void *)&addr, sizeof(addr)) || listen(listener, 128)) {
		perror("listen");
		return 1;
	}
	for (;;) {
		int conn = accept(listener, NULL, NULL);
		pthread_t thread;

		if (conn < 0 || pthread_create(&thread, NULL, serve_client, (void *)(long)conn))
			return 1;
		pthread_detach(thread);
	}
}
