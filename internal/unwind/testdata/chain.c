/*
 * Blocks in read(0) or accept() below a chain of functions, so that its stack can be
 * looked at: chain read | accept | buffer | signal | fault.
 */
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone))

static volatile int sink;
static char byte[8];

NOINLINE int do_read(void)
{
	int r = read(0, byte, 1);

	sink++;
	return r;
}

NOINLINE int do_accept(int fd)
{
	int r = accept(fd, 0, 0);

	sink++;
	return r;
}

NOINLINE int next_client(int fd)
{
	int r = fd ? do_accept(fd) : do_read();

	sink += 2;
	return r;
}

/* Its frame is large and full of old words: whoever scans the stack meets them. */
NOINLINE int with_buffer(int fd)
{
	char old[4096];
	int r;

	for (int i = 0; i < (int)sizeof(old); i += 64)
		old[i] = sink;
	r = next_client(fd);
	sink += old[sink & 1023];
	return r;
}

NOINLINE int serve_forever(int fd, int buffer)
{
	int r = buffer ? with_buffer(fd) : next_client(fd);

	sink += r;
	return r;
}

NOINLINE void in_handler(void)
{
	do_read();
	sink++;
}

/* Faults in its first instruction. */
NOINLINE int fault(volatile int *p)
{
	return *p;
}

static void handler(int sig)
{
	in_handler();
	sink += sig;
}

NOINLINE int spin_inner(void)
{
	kill(getpid(), SIGUSR1);
	while (!sink)
		;
	return sink + 1;
}

NOINLINE int spin_outer(void)
{
	int r = spin_inner();

	sink++;
	return r;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "read";
	int fd = 0, r;

	if (!strcmp(mode, "signal")) {
		signal(SIGUSR1, handler);
		r = spin_outer();
		sink++;
		return r;
	}
	if (!strcmp(mode, "fault")) {
		signal(SIGSEGV, handler);
		r = fault(0);
		sink += r;
		return r;
	}
	if (!strcmp(mode, "accept")) {
		fd = socket(AF_INET, SOCK_STREAM, 0);
		listen(fd, 5);
	}
	r = serve_forever(fd, !strcmp(mode, "buffer"));
	sink++;
	return r;
}
