#include <string>
#include <vector>

volatile int sink;

#define KEEP __attribute__((noinline, noclone))

namespace net {
class Server {
public:
	template <typename T> KEEP int accept(const T &name)
	{
		sink = sink + (int)name.size();
		return sink;
	}
	KEEP int serve(const std::vector<std::string> &names)
	{
		int n = 0;
		for (auto &name : names)
			n += accept(name);
		return n;
	}
};
namespace {
KEEP int hidden(Server &s) { return s.serve({"a", "b"}); }
}
}

int main()
{
	net::Server s;
	auto call = [&]() __attribute__((noinline)) { return net::hidden(s) + 1; };
	return call();
}
