import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.Socket;
import java.util.stream.IntStream;

/**
 * Connects to the port it is given and waits in a read, at the end of a chain of calls
 * that a test knows. It answers 'A' with 'B', everything else only with another read: the
 * test makes the chain hot by writing much.
 */
public class Waits {
	static InputStream in;
	static OutputStream out;

	public static void main(String[] args) throws Exception {
		Socket s = new Socket(InetAddress.getLoopbackAddress(), Integer.parseInt(args[0]));
		in = s.getInputStream();
		out = s.getOutputStream();
		if (args.length > 1 && args[1].equals("surprise")) {
			new Thread(Waits::surprise).start();
		} else if (args.length > 1) {
			Virtual.start(args[1].equals("slept"));
		}
		new Waits().serve();
	}

	void serve() throws Exception {
		while (true) {
			Runnable r = () -> handle();
			r.run();
		}
	}

	void handle() {
		IntStream.range(0, 1).forEach(i -> request(i));
	}

	void request(int i) {
		try {
			answer(readRequest());
		} catch (Exception e) {
			throw new IllegalStateException(e);
		}
	}

	int readRequest() throws Exception {
		return source.next();
	}

	/** As long as there is no Other, compiled code knows which next it calls. */
	static class Source {
		int next() throws Exception {
			return in.read();
		}
	}

	static class Other extends Source {
		@Override
		int next() throws Exception {
			return super.next();
		}
	}

	static Source source = new Source();

	/** Makes Other known, and with that, code that is in use wrong. */
	static void surprise() {
		try {
			System.in.read();
			new Other();
			out.write('D');
		} catch (Exception e) {
			throw new IllegalStateException(e);
		}
	}

	void answer(int c) throws Exception {
		if (c == 'A') {
			out.write('B');
		} else if (c < 0) {
			System.exit(0);
		}
	}

	/** A virtual thread that blocks its carrier, since a FIFO is no socket. */
	static class Virtual {
		static void start(boolean sleep) throws Exception {
			Runnable r = () -> outer(sleep);
			Thread.class.getMethod("startVirtualThread", Runnable.class).invoke(null, r);
		}

		static void outer(boolean sleep) {
			middle(sleep);
		}

		static void middle(boolean sleep) {
			inner(sleep);
		}

		static void inner(boolean sleep) {
			try {
				if (sleep) {
					Thread.sleep(1);
				}
				System.in.read();
			} catch (Exception e) {
				throw new IllegalStateException(e);
			}
		}
	}
}
