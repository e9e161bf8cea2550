import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayList;
import java.util.List;

/** An echo server for one connection at a time: JSrv PORT. */
public class JSrv {
    static final List<Socket> kept = new ArrayList<>();

    static int readReq(Socket conn, byte[] buf) throws IOException {
        return conn.getInputStream().read(buf);
    }

    static void handle(Socket conn) throws IOException {
        byte[] buf = new byte[512];
        while (readReq(conn, buf) > 0) {
            conn.getOutputStream().write("ok\n".getBytes());
        }
        kept.add(conn);
        drop();
    }

    static void drop() throws IOException {
        for (Socket conn : kept) {
            conn.close();
        }
        kept.clear();
    }

    static Socket acceptOne(ServerSocket listener) throws IOException {
        return listener.accept();
    }

    static void serve(ServerSocket listener) throws IOException {
        while (true) {
            handle(acceptOne(listener));
        }
    }

    public static void main(String[] args) throws IOException {
        serve(new ServerSocket(Integer.parseInt(args[0]), 128, InetAddress.getByName("127.0.0.1")));
    }
}
