#define _GNU_SOURCE
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define KEEP __attribute__((noinline))
static volatile int sink;

/* Every function works on after its call, so that none is a jump. */
static KEEP int do_accept(int l)
{
	char pad[200];
	memset(pad, l, sizeof pad);
	int c = accept4(l, 0, 0, SOCK_CLOEXEC);
	sink += pad[c & 63];
	return c;
}

static KEEP int next_client(int l)
{
	int c = do_accept(l);
	sink++;
	return c;
}

KEEP int serve_forever(int l)
{
	for (;;) {
		int c = next_client(l);
		if (c < 0)
			return -1;
		sink += c;
	}
}

int main(void)
{
	int rc = serve_forever(0);
	sink++;
	return rc;
}
