package dev.holdfast.worker;

import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.atomic.AtomicLong;

/** Counts jobs: each POST is one, GET tells how many there were. */
public final class Worker {
    private static final String GREETING = "jobs done";

    private Worker() {}

    public static void main(String[] args) throws IOException {
        AtomicLong done = new AtomicLong();
        HttpServer server = HttpServer.create(new InetSocketAddress(8080), 0);
        server.createContext("/", exchange -> {
            if (exchange.getRequestMethod().equals("POST")) {
                done.incrementAndGet();
            }
            byte[] body = (done.get() + " " + GREETING + "\n").getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(200, body.length);
            try (var out = exchange.getResponseBody()) {
                out.write(body);
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> server.stop(0)));
        server.start();
        System.out.println("worker: listening on 8080");
    }
}
