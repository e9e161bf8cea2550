import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.concurrent.CountDownLatch;

/**
 * A metrics endpoint as the JDK's own server makes it: without an executor the thread that
 * accepts runs the handlers, and one that hangs stops it. Exporter PORT BACKLOG
 */
class Exporter {
	private static final CountDownLatch NEVER = new CountDownLatch(1);

	static void collect() {
		System.out.println("collecting");
		try {
			NEVER.await();
		} catch (InterruptedException e) {
			throw new IllegalStateException(e);
		}
	}

	public static void main(String[] args) throws Exception {
		var address = new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0]));
		HttpServer server = HttpServer.create(address, Integer.parseInt(args[1]));
		server.createContext("/metrics", exchange -> collect());
		server.start();
	}
}
