import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.concurrent.CountDownLatch;

/** A thread for each connection; all of them want a lock that one keeps: Deadlock PORT */
class Deadlock {
	private static final Object QUOTA = new Object();
	private static int charged;

	static void chargeQuota() {
		synchronized (QUOTA) {
			charged++;
		}
	}

	static void serveClient(Socket conn) {
		try (conn) {
			int request = conn.getInputStream().read();
			chargeQuota();
			conn.getOutputStream().write(request);
		} catch (Exception e) {
			System.out.println(e);
		}
	}

	public static void main(String[] args) throws Exception {
		var held = new CountDownLatch(1);
		new Thread(() -> {
			synchronized (QUOTA) {
				held.countDown();
				try {
					// Not wait(): that would let go of the lock.
					Thread.sleep(Long.MAX_VALUE);
				} catch (InterruptedException e) {
					throw new IllegalStateException(e);
				}
			}
		}, "keeper").start();
		held.await();
		var listener = new ServerSocket(Integer.parseInt(args[0]), 128, InetAddress.getLoopbackAddress());
		for (;;) {
			Socket conn = listener.accept();
			new Thread(() -> serveClient(conn)).start();
		}
	}
}
