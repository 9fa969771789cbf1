// uWebSockets, the C++ library itself; the same paths as lifeline.php. PORT. Built by hand where it is wanted,
// the bench is told by UWEBSOCKETS=/path/to/the/binary:
//   cc -O3 -march=native -DLIBUS_NO_SSL -c -I uSockets/src uSockets/src/*.c uSockets/src/eventing/*.c
//   c++ -std=c++20 -O3 -march=native -DUWS_NO_ZLIB -DLIBUS_NO_SSL -I uSockets/src -I uWebSockets/src uwebsockets.cpp *.o
#include <App.h>
#include <cstdlib>
#include <iostream>
#include <string_view>

struct Nothing {};

static uWS::App app;

static uWS::App::WebSocketBehavior<Nothing> manner(std::string_view path) {
    uWS::App::WebSocketBehavior<Nothing> behavior;
    behavior.compression = uWS::DISABLED;
    behavior.maxPayloadLength = 1 << 20;
    behavior.maxBackpressure = 64 << 20;
    behavior.idleTimeout = 120;
    behavior.sendPingsAutomatically = true;
    behavior.open = [path](auto *socket) {
        if (path == "/subscribe") socket->subscribe("news");
    };
    behavior.message = [path](auto *socket, std::string_view message, uWS::OpCode code) {
        if (path == "/publish") app.publish("news", message, code);
        else if (path != "/subscribe") socket->send(message, code);
    };
    return behavior;
}

int main() {
    const int port = std::atoi(std::getenv("PORT"));
    app.ws<Nothing>("/subscribe", manner("/subscribe"))
        .ws<Nothing>("/publish", manner("/publish"))
        .ws<Nothing>("/*", manner("/"))
        .listen("127.0.0.1", port, [port](auto *bound) {
            if (!bound) std::exit(1);
            std::cout << "listening ws://127.0.0.1:" << port << std::endl;
        })
        .run();
}
