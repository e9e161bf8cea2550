import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/** Answers each request and shuts the connection down both ways, but never closes it. */
public final class Zombie {
    private static final List<SocketChannel> FORGOTTEN = new ArrayList<>();

    private Zombie() {}

    public static void main(String[] args) throws Exception {
        ServerSocketChannel listener = ServerSocketChannel.open();
        listener.bind(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])), 256);
        while (true) {
            SocketChannel c = listener.accept();
            c.read(ByteBuffer.allocate(64));
            c.write(ByteBuffer.wrap("bye\n".getBytes(StandardCharsets.US_ASCII)));
            c.shutdownInput();
            c.shutdownOutput();
            FORGOTTEN.add(c);
        }
    }
}
