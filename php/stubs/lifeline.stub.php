<?php

/**
 * Stubs of the extension `lifeline` for editors, PHPStan and Psalm. Not to be loaded at run time.
 *
 * Durations are seconds (int|float), sizes are bytes. Callbacks get only the arguments that they declare.
 */

/**
 * What {@see WsServer} does; for tests that need a double of it.
 *
 * @phpstan-type Stats array<string, int|float|bool|string|null|array<string, mixed>>
 * @phpstan-type Headers array<string, string|list<string>>
 * @phpstan-type HandshakeAnswer array{status?: int<100, 599>, headers?: Headers, body?: string, protocol?: string, compression?: bool}
 * @phpstan-type Heartbeat array{
 *   interval?: int|float, timeout?: int|float, missedLimit?: int<1, 1000>,
 *   mode?: 'auto'|'fixed'|'keepalive'|'passive'|'off',
 *   adaptive?: array{int|float, int|float, int|float}|array{min: int|float, max: int|float, step: int|float}|null,
 *   message?: string|null, reply?: string|null, accept?: array<array-key, string>,
 *   preset?: 'nginx'|'aws-elb'|'haproxy'|'cloudflare'|'grpc'|'mobile'|null,
 * }
 * @phpstan-type Compression bool|array{
 *   level?: int<1, 9>, contextTakeover?: bool, windowBits?: int<9, 15>, threshold?: int<0, max>,
 * }
 * @phpstan-type Logger object|callable(string $level, string $message, array<string, string> $context): mixed
 * @phpstan-type LogLevel 'debug'|'info'|'notice'|'warning'|'error'|'critical'|'alert'|'emergency'
 */
interface WsServerInterface
{
    /**
     * Sets the callback of that name, as the method `on<Event>` does.
     *
     * @param 'handshake'|'open'|'message'|'close'|'error'|'drain'|'join'|'leave'|'auth'|'subscribe'|'snapshot'|'sessionEnd' $event
     * @throws \ValueError unknown event
     */
    public function on(string $event, callable $callback): static;

    /**
     * Decides on each handshake (RFC 6455 section 4.2.2), before start(). true accepts, false refuses with 403,
     * an int is the status, an array says more. Anything else refuses with 500.
     *
     * @param callable(WsRequest $request): (bool|int|HandshakeAnswer) $callback
     */
    public function onHandshake(callable $callback): static;

    /**
     * Where lifeline.v1 is spoken: when the session is there, new or again ({@see WsConnection::$resumed}). With workers
     * also when the connection comes from another one.
     *
     * @param callable(WsConnection $connection, WsRequest $request): mixed $callback
     */
    public function onOpen(callable $callback): static;

    /**
     * On lifeline.v1 the message is acknowledged when the handler has ended: returned, its fiber or coroutine
     * included, or by {@see WsMessage::ack()} (always with the option `ack` => 'manual'). One that throws
     * gets it again, redelivery.limit times in all; one that throws {@see WsReject} refuses the message.
     *
     * @param callable(WsConnection $connection, string $data, bool $binary, WsMessage $message): mixed $callback
     */
    public function onMessage(callable $callback): static;

    /**
     * Once for each connection that was opened; a failure's onError comes before it. A link found dead: code
     * 4001, clean false; other abnormal ends: 1006 (RFC 6455 section 7.1.5).
     *
     * @param callable(WsConnection $connection, int $code, string $reason, bool $clean): mixed $callback
     */
    public function onClose(callable $callback): static;

    /**
     * What callbacks throw (the connection is then closed with 1011, the server goes on) and what goes wrong on
     * connections. Without it exceptions become E_WARNING with their trace.
     *
     * @param callable(\Throwable $error, ?WsConnection $connection): mixed $callback
     */
    public function onError(callable $callback): static;

    /**
     * What waited for it was more than half of send.limit, or something was dropped, and has fallen to a quarter.
     *
     * @param callable(WsConnection $connection): mixed $callback
     */
    public function onDrain(callable $callback): static;

    /**
     * Before start().
     *
     * @param callable(string $channel, WsConnection $connection): mixed $callback
     */
    public function onJoin(callable $callback): static;

    /**
     * Before start().
     *
     * @param callable(string $channel, WsConnection $connection): mixed $callback
     */
    public function onLeave(callable $callback): static;

    /**
     * Before start(). Decides who may have a session (lifeline.v1; plain clients are not asked: see onHandshake()).
     * Asked with each HELLO, also of clients that
     * come back ($session, where they have shown its token), and when a client shows fresh credentials. An array
     * is what the client may claim: `user`, or else `sub`, names the owner of the session, {@see WsConnection::$user}, and nobody else can
     * resume it. false closes with 4500, or with 4003 a client that had been let in before, so that it fetches
     * fresh credentials; throw {@see WsReject} with a code of 4000 to 4999 for another.
     *
     * @param callable(WsRequest $request, ?string $token, ?WsSession $session): (array<string, mixed>|false) $callback
     */
    public function onAuth(callable $callback): static;

    /**
     * Before start(). Whether a client that asks may subscribe (lifeline.v1). Without it none may.
     *
     * @param callable(WsConnection $connection, string $channel): bool $callback
     */
    public function onSubscribe(callable $callback): static;

    /**
     * Before start(). The channel's state, for clients that have missed messages which the log no longer has
     * (lifeline.v1). What is published while it runs may be in it, and is sent behind it again.
     *
     * @param callable(string $channel): string $callback
     */
    public function onSnapshot(callable $callback): static;

    /**
     * A session's client has not come back within resume.ttl, or has closed for good so long ago. Its values can
     * still be read.
     *
     * @param callable(WsSession $session): mixed $callback
     */
    public function onSessionEnd(callable $callback): static;

    /**
     * Binds and starts the threads.
     *
     * @throws WsConnectException an address cannot be bound; names it
     * @throws WsStorageException option store: the directory is in use or cannot be read or written
     */
    public function start(): void;

    /**
     * Starts, and dispatches until this server has stopped. Serves every server and client of the process.
     *
     * With the option `workers` this process runs no callbacks and no timers of the server: it starts so many processes
     * with its own command line, and run() in each of them runs the callbacks for its part of the connections, until the
     * server has stopped or other workers have taken over. getenv('LIFELINE_WORKER') is the worker's number, 1 and up,
     * and false in the process that has the workers. That one, unless it has handlers of its own, reloads at SIGUSR1 and
     * stops at SIGTERM and SIGINT, at the second at once; workers leave these to it.
     *
     * @throws WsConnectException|WsStorageException as start()
     * @throws WsException option `workers`: the script was read from standard input, the process has such a server
     *         already, or is a worker of another
     */
    public function run(): void;

    /**
     * Dispatches what waits, for every server and client of the process; waits at most $timeout seconds for
     * the first callback.
     *
     * @return int number of callbacks run
     * @throws \ValueError $timeout is negative
     */
    public function poll(float $timeout = 0.0): int;

    /**
     * poll(0) that returns nothing and takes whatever an event loop passes: `$client->tick(...)` is a callback for one.
     */
    public function tick(mixed ...$ignored): void;

    /**
     * Readable when there is something to poll: for stream_select() and event loops. Do not read from it.
     *
     * @return resource
     */
    public function stream(): mixed;

    /**
     * Takes no new connections, closes all with 1001 within $drain seconds, drops the rest. Clients of
     * lifeline.v1 are asked to leave at a time of their own within it, and closed with 4000 at its end.
     * From a worker: the whole server stops.
     */
    public function stop(float $drain = 5.0): void;

    /**
     * Starts new workers with the code as it is now; they take over the connections of those that there are, each when
     * its handler is idle. No connection is closed, no message lost. Code that does not get as far as run() or start()
     * changes nothing: the log says why, and the old workers stay. Returns at once. As SIGUSR1 to the process that has
     * the workers.
     *
     * @throws WsException a server without the option `workers`, or before start()
     */
    public function reload(): void;

    /**
     * The bound address as a URL (the first, where there are several); port 0 is resolved.
     *
     * @throws WsException before start()
     */
    public function address(): string;

    /**
     * To each open connection and each session, connected or not.
     *
     * @param list<WsConnection|int> $except
     * @return int number of receivers
     * @throws \ValueError text that is not UTF-8 (RFC 6455 section 5.6)
     */
    public function broadcast(string $data, bool $binary = false, array $except = []): int;

    /**
     * To each member of the channel; encoded once.
     *
     * @param string $channel 1 to 255 bytes of UTF-8 without control characters
     * @param list<WsConnection|int> $except
     * @return int number of receivers
     * @throws \ValueError
     */
    public function publish(string $channel, string $data, bool $binary = false, array $except = []): int;

    /**
     * To each connection that is bound to the user, and each session of the user, connected or not.
     *
     * @return int number of receivers
     * @throws \ValueError
     */
    public function sendToUser(string $user, string $data, bool $binary = false): int;

    /**
     * Closes each connection that is bound to the user.
     *
     * @return int number of connections
     * @throws \ValueError
     */
    public function disconnectUser(string $user, int $code = 4503, string $reason = ''): int;

    /**
     * With workers, here and in members(), connections() and connection(): those of all of them. For one that another
     * worker serves the object is a name: its methods work, its $data is null and shared with nobody.
     *
     * @return list<WsConnection>
     */
    public function connectionsOf(string $user): array;

    /** A connection is bound to the user. */
    public function isOnline(string $user): bool;

    /** @return list<WsConnection> */
    public function members(string $channel): array;

    /** @return list<string> channels with a member */
    public function channels(): array;

    /** @return iterable<WsConnection> */
    public function connections(): iterable;

    /** The open connection of that id. */
    public function connection(int $id): ?WsConnection;

    /** The session of that id, with or without a connection; null: it has ended. */
    public function session(string $id): ?WsSession;

    /**
     * The document of that channel; opened, empty, where there is none. It lives until the server stops. Clients follow
     * it where onSubscribe lets them into the channel.
     *
     * @param array{write?: bool|callable(WsConnection $connection, string $key, mixed $value, int $version, bool $deleted): bool, keys?: int, bytes?: int} $options
     *        write: which clients may edit. true (the default): those that are subscribed; false: none; a callable decides
     *        on each edit ($version is the key's present one, 0: there is none; what it throws closes the connection,
     *        and the edit comes again; {@see WsReject} refuses it). keys (1000): how many at most. bytes (256 KiB, at
     *        most limits.maxMessage): of keys and values as JSON, and 64 for each. What is not given stays as it was.
     * @throws \ValueError|\TypeError options or names that are not allowed
     * @throws WsException before start(), after the end, or beyond limits.maxChannels
     */
    public function document(string $channel, array $options = []): WsDocument;

    /** Number of open connections, of all workers. */
    public function count(): int;

    /**
     * Calls $f once, after $s seconds. With workers: in each of them.
     *
     * @param callable(): mixed $f
     * @return int for cancel()
     * @throws \ValueError $s is negative
     */
    public function after(float $s, callable $f): int;

    /**
     * Calls $f every $s seconds. A run that is late is not made up for. With workers: in each of them; for one alone,
     * look at getenv('LIFELINE_WORKER').
     *
     * @param callable(): mixed $f
     * @return int for cancel()
     * @throws \ValueError $s is not positive
     */
    public function every(float $s, callable $f): int;

    /** Ends a timer; an unknown number is ignored. */
    public function cancel(int $timer): void;

    /** @return Stats */
    public function stats(): array;
}

/**
 * What {@see WsConnection} does; for tests that need a double of it.
 *
 * @phpstan-import-type Stats from WsServerInterface
 */
interface WsConnectionInterface
{
    /**
     * Gives the connection a user, for sendToUser() and the like; sets $user.
     *
     * @throws \ValueError empty, or not UTF-8
     */
    public function bind(string $user): void;

    /**
     * On lifeline.v1 into the session's stream: what the client has not acknowledged comes again when it is back,
     * also what is sent after the connection's end.
     *
     * @return bool false: closed (lifeline.v1: the session has ended), or dropped by send.policy
     * @throws \ValueError text that is not UTF-8 (RFC 6455 section 5.6)
     */
    public function send(string $data, bool $binary = false): bool;

    /**
     * Sends what is queued, then the close frame. Does nothing when it is closed already.
     *
     * @param int $code 1000–1003, 1007–1014, 3000–4999 (RFC 6455 section 7.4)
     * @param string $reason UTF-8, at most 123 bytes
     * @throws \ValueError
     */
    public function close(int $code = 1000, string $reason = ''): void;

    /** Drops the socket now; onClose gets 1006. */
    public function abort(): void;

    /**
     * A ping of your own (RFC 6455 section 5.5.2), beside the heartbeat.
     *
     * @param string $payload at most 125 bytes
     * @throws \ValueError
     */
    public function ping(string $payload = ''): void;

    /**
     * @param string $channel 1 to 255 bytes of UTF-8 without control characters
     * @throws WsException over limits.maxChannels or limits.maxSubscriptions
     * @throws \ValueError
     */
    public function subscribe(string $channel): void;

    /** @throws \ValueError */
    public function unsubscribe(string $channel): void;

    /** @return list<string> */
    public function channels(): array;

    /** Neither closed nor closing. */
    public function isOpen(): bool;

    /** Bytes queued and not yet given to the kernel. */
    public function bufferedBytes(): int;

    /** Smoothed round-trip time in seconds; null before the first answered beat. */
    public function rtt(): ?float;

    /** @return Stats */
    public function stats(): array;

    /** The request that opened it. */
    public function handshake(): WsRequest;

    /** Logs each frame of this connection at level debug. */
    public function trace(bool $on): void;
}

/**
 * What {@see WsClient} does; for tests that need a double of it.
 *
 * @phpstan-import-type Stats from WsServerInterface
 * @phpstan-import-type Headers from WsServerInterface
 */
interface WsClientInterface
{
    /**
     * Sets the callback of that name, as the method `on<Event>` does.
     *
     * @param 'open'|'message'|'close'|'stateChange'|'connecting'|'error'|'drain'|'overflow'|'token'|'gap'|'snapshot'|'reject' $event
     * @throws \ValueError unknown event
     */
    public function on(string $event, callable $callback): static;

    /**
     * $resumed: the session of an earlier connection goes on, and what came meanwhile follows. False for a new
     * session and on plain WebSocket.
     *
     * @param callable(WsClient $client, bool $resumed): mixed $callback
     */
    public function onOpen(callable $callback): static;

    /**
     * On lifeline.v1 the message is acknowledged when the handler has ended: returned or thrown, its fiber or
     * coroutine included, or after {@see WsMessage::defer()} and ack(). Messages of channels come here, too
     * ({@see WsMessage::$channel}).
     *
     * @param callable(WsClient $client, string $data, bool $binary, WsMessage $message): mixed $callback
     */
    public function onMessage(callable $callback): static;

    /**
     * Each loss of an established connection. A link found dead: code 4001, clean false; other abnormal
     * ends: 1006 (RFC 6455 section 7.1.5).
     *
     * @param callable(WsClient $client, int $code, string $reason, bool $clean): mixed $callback
     */
    public function onClose(callable $callback): static;

    /** @param callable(WsTransition $transition): mixed $callback */
    public function onStateChange(callable $callback): static;

    /**
     * Before each attempt; returns the headers for it, beside those of the option `connect.headers`. An
     * exception fails the attempt and goes to onError.
     *
     * @param callable(WsClient $client, int $attempt): Headers $callback
     */
    public function onConnecting(callable $callback): static;

    /**
     * A terminal refusal or exhausted attempts ({@see WsConnectException}), and what the other callbacks
     * throw. Without it both leave through run(), poll(), receive() or flush().
     *
     * @param callable(\Throwable $error): mixed $callback
     */
    public function onError(callable $callback): static;

    /**
     * The outbox was more than half full (outbox.limit, outbox.bytes) and has fallen to a quarter.
     *
     * @param callable(WsClient $client): mixed $callback
     */
    public function onDrain(callable $callback): static;

    /**
     * An accepted message will not be sent (again): it was not acknowledged before its time or the client's
     * was over.
     *
     * @param callable(int $sequence, string $data, 'limit'|'expired'|'closed' $why): mixed $callback
     */
    public function onOverflow(callable $callback): static;

    /**
     * Gives the credentials that lifeline.v1 shows the server in its HELLO. Asked before the first attempt, and
     * again when the server says that they are over (4003) or refuses the handshake with 401; kept until then.
     * Set before connect(); set again later, it is asked at once and the open connection refreshed. An exception
     * fails the attempt and goes to onError.
     *
     * @param callable(): string $callback
     */
    public function onToken(callable $callback): static;

    /**
     * Messages were missed that the server no longer has (lifeline.v1).
     *
     * @param callable(WsGap $gap): mixed $callback
     */
    public function onGap(callable $callback): static;

    /**
     * The state of a channel in which messages were missed; what comes next continues it (lifeline.v1).
     *
     * @param callable(WsClient $client, string $channel, string $data): mixed $callback
     */
    public function onSnapshot(callable $callback): static;

    /**
     * The server's handler has refused a message for good (lifeline.v1).
     *
     * @param callable(int $sequence, string $data, int $code, string $reason): mixed $callback
     */
    public function onReject(callable $callback): static;

    /**
     * Begins to connect and returns at once.
     *
     * @throws WsStorageException option outbox.path: the directory is in use or cannot be read or written
     * @throws WsException after close()
     */
    public function connect(): void;

    /**
     * Connects, and dispatches until this client is closed. Serves every server and client of the process.
     *
     * @throws WsConnectException terminal refusal or exhausted attempts, without onError
     */
    public function run(): void;

    /**
     * Dispatches what waits, for every server and client of the process; waits at most $timeout seconds for
     * the first callback.
     *
     * @return int number of callbacks run
     * @throws \ValueError $timeout is negative
     * @throws WsConnectException terminal refusal or exhausted attempts, without onError
     */
    public function poll(float $timeout = 0.0): int;

    /**
     * poll(0) that returns nothing and takes whatever an event loop passes: `$client->tick(...)` is a callback for one.
     */
    public function tick(mixed ...$ignored): void;

    /**
     * Readable when there is something to poll: for stream_select() and event loops. Do not read from it.
     *
     * @return resource
     */
    public function stream(): mixed;

    /** Reconnects now (lazy mode, during backoff); probes the link when connected. */
    public function wake(): void;

    /**
     * Into the outbox; works before connect().
     *
     * @param float|null $ttl seconds after which it is given up (onOverflow 'expired'); null: option outbox.ttl
     * @return int its sequence number, from 1
     * @throws WsOverflowException outbox full, policy `error`
     * @throws WsStorageException option outbox.path: it could not be stored, and was not taken
     * @throws WsTimeoutException outbox full for outbox.blockTimeout, policy `block`
     * @throws WsException after close()
     * @throws \ValueError text that is not UTF-8 (RFC 6455 section 5.6), negative $ttl
     */
    public function send(string $data, bool $binary = false, ?float $ttl = null): int;

    /**
     * Many messages, with outbox.path at the cost of one: they are made durable together.
     *
     * @param array<array-key, string> $messages
     * @return int the sequence number of the last message so far; 0: there was none
     * @throws WsOverflowException|WsTimeoutException|WsException|\ValueError|\TypeError as send(): none was
     *         taken, but with policy `block` those before stay queued
     */
    public function sendMany(array $messages, bool $binary = false): int;

    /**
     * The next message; other objects' callbacks are served meanwhile. Null: time is over, or closed. On
     * lifeline.v1 it is acknowledged when the next one is asked for.
     *
     * @throws WsException onMessage is set
     * @throws WsConnectException terminal refusal or exhausted attempts, without onError
     */
    public function receive(?float $timeout = null): ?WsMessage;

    /**
     * receive() until closed.
     *
     * @return \Iterator<int, WsMessage>
     * @throws WsException onMessage is set
     */
    public function messages(): \Iterator;

    /**
     * Waits until everything is acknowledged: handled by the server (plain peer: written to the socket).
     *
     * @return bool false: time is over
     * @throws WsConnectException terminal refusal or exhausted attempts, without onError
     */
    public function flush(?float $timeout = null): bool;

    /**
     * Asks for the messages of a channel (lifeline.v1): they come to onMessage, from the server's answer on and
     * over reconnects. A denial goes to onError. Before there is a connection it waits for a server that speaks
     * lifeline.v1.
     *
     * @throws WsException the server does not speak lifeline.v1, or it is not in the option `protocols`; after close()
     * @throws \ValueError $channel is not 1 to 255 bytes of UTF-8 without control characters
     */
    public function subscribe(string $channel): void;

    /**
     * Ends that, also where the server subscribed us.
     *
     * @throws WsException|\ValueError as subscribe()
     */
    public function unsubscribe(string $channel): void;

    /**
     * Follows the document of that channel (lifeline.v1), and subscribes to it.
     *
     * @param array{conflict?: 'serverWins'|'clientWins'|callable(string $key, mixed $mine, mixed $theirs): mixed} $options
     *        what becomes of an edit where the server has something newer: dropped (the default), made again on top of
     *        that, or what the callable returns is set (null: the server's value holds). At most 5 times in a row for a
     *        key, then the server's value holds. What is not given stays as it was.
     * @throws \ValueError|\TypeError options or names that are not allowed
     * @throws WsException closed, or a server without lifeline.v1
     */
    public function document(string $channel, array $options = []): WsReplica;

    public function state(): WsState;

    /** Messages accepted by send() and not yet acknowledged (plain peer: not yet written to the socket). */
    public function unacknowledged(): int;

    /** @return Stats */
    public function stats(): array;

    /**
     * Closes for good. onMessage is not called any more. On lifeline.v1 it waits up to a second, without blocking,
     * for what is not acknowledged. What remains goes to onOverflow with 'closed', or with the option outbox.path stays there
     * for the next client.
     *
     * @param int $code 1000, 1001–1003, 1007–1014, 3000–4999 (RFC 6455 section 7.4)
     * @param string $reason UTF-8, at most 123 bytes
     * @throws \ValueError
     */
    public function close(int $code = 1000, string $reason = ''): void;

    /**
     * Calls $f once, after $s seconds.
     *
     * @param callable(): mixed $f
     * @return int for cancel()
     * @throws \ValueError $s is negative
     */
    public function after(float $s, callable $f): int;

    /**
     * Calls $f every $s seconds. A run that is late is not made up for.
     *
     * @param callable(): mixed $f
     * @return int for cancel()
     * @throws \ValueError $s is not positive
     */
    public function every(float $s, callable $f): int;

    /** Ends a timer; an unknown number is ignored. */
    public function cancel(int $timer): void;
}

/**
 * A WebSocket server. The object owns its sockets: when its last reference goes, they are closed with 1001.
 *
 * @phpstan-type ServerOptions array{
 *   heartbeat?: Heartbeat,
 *   idle?: array{timeout?: int|float|null, evict?: bool},
 *   limits?: array{
 *     memory?: positive-int, maxMessage?: positive-int, maxFrame?: positive-int, maxFragments?: positive-int,
 *     inbound?: positive-int, maxConnections?: int<0, max>, perIp?: int<0, max>, maxChannels?: positive-int,
 *     maxSubscriptions?: positive-int, handshakeTimeout?: int|float, authTimeout?: int|float,
 *     maxHeaderBytes?: int<256, 1048576>, maxSessions?: positive-int, messageRate?: int|float|null,
 *     byteRate?: int|float|null, rateAction?: 'pause'|'close',
 *   },
 *   ack?: 'auto'|'manual', redelivery?: array{limit?: int<1, 1000>},
 *   resume?: array{ttl?: int|float, count?: positive-int, bytes?: positive-int}, dedupe?: array{ttl?: int|float},
 *   store?: 'memory'|non-empty-string,
 *   send?: array{limit?: positive-int, policy?: 'close'|'dropOldest'|'dropNewest'},
 *   compression?: Compression,
 *   origins?: 'same-host'|'any'|non-empty-list<string>,
 *   protocols?: list<string>, path?: string|null, healthPath?: string|null, static?: non-empty-string|bool|null,
 *   trustedProxies?: list<string>, proxyProtocol?: bool,
 *   tls?: array{
 *     cert?: string|null, key?: string|null, clientCa?: string|null,
 *     sni?: array<string, array{cert: string, key?: string}>|null,
 *   }|null,
 *   watchdog?: array{lag?: int|float, action?: 'log'|'unready'|'drain'|'replace'},
 *   admin?: string|null, logger?: Logger|null, logLevel?: LogLevel,
 *   ioThreads?: int<1, 64>|null, reusePort?: bool, backlog?: int<1, 65535>,
 *   workers?: int<0, 256>|array{
 *     count: int<0, 256>, by?: 'connection'|'user'|non-empty-string, maxRequests?: positive-int|null,
 *     maxMemory?: int<16777216, max>|null, grace?: int|float,
 *   },
 * }
 * @phpstan-import-type Heartbeat from WsServerInterface
 * @phpstan-import-type Compression from WsServerInterface
 * @phpstan-import-type Logger from WsServerInterface
 * @phpstan-import-type LogLevel from WsServerInterface
 */
final class WsServer implements WsServerInterface, \Countable
{
    /**
     * Checks its arguments; opens nothing yet.
     *
     * @param string|non-empty-list<string> $listen ws://host:port, wss://host:port, unix:///path, systemd:name; port 0: any free one
     * @param ServerOptions $options
     * @throws \ValueError|\TypeError naming the option or URL, what was given and what is allowed
     * @throws \Error under a server API that serves requests (FPM, Apache)
     */
    public function __construct(#[\SensitiveParameter] string|array $listen = 'ws://127.0.0.1:8080', #[\SensitiveParameter] array $options = []) {}

    public function on(string $event, callable $callback): static {}

    public function onHandshake(callable $callback): static {}

    public function onOpen(callable $callback): static {}

    public function onMessage(callable $callback): static {}

    public function onClose(callable $callback): static {}

    public function onError(callable $callback): static {}

    public function onDrain(callable $callback): static {}

    public function onJoin(callable $callback): static {}

    public function onLeave(callable $callback): static {}

    public function onAuth(callable $callback): static {}

    public function onSubscribe(callable $callback): static {}

    public function onSnapshot(callable $callback): static {}

    public function onSessionEnd(callable $callback): static {}

    public function start(): void {}

    public function run(): void {}

    public function poll(float $timeout = 0.0): int {}

    public function tick(mixed ...$ignored): void {}

    public function stream(): mixed {}

    public function stop(float $drain = 5.0): void {}

    public function reload(): void {}

    public function address(): string {}

    public function broadcast(string $data, bool $binary = false, array $except = []): int {}

    public function publish(string $channel, string $data, bool $binary = false, array $except = []): int {}

    public function sendToUser(string $user, string $data, bool $binary = false): int {}

    public function disconnectUser(string $user, int $code = 4503, string $reason = ''): int {}

    public function connectionsOf(string $user): array {}

    public function isOnline(string $user): bool {}

    public function members(string $channel): array {}

    public function channels(): array {}

    public function connections(): iterable {}

    public function connection(int $id): ?WsConnection {}

    public function session(string $id): ?WsSession {}

    public function document(string $channel, array $options = []): WsDocument {}

    public function count(): int {}

    public function after(float $s, callable $f): int {}

    public function every(float $s, callable $f): int {}

    public function cancel(int $timer): void {}

    public function stats(): array {}
}

/** The same object for the connection's life. */
final class WsConnection implements WsConnectionInterface
{
    public readonly int $id;

    /** `203.0.113.7:4711`, `[::1]:4711`, `unix:`; behind a trusted proxy the client's, without a port if none is told. */
    public readonly string $remoteAddress;

    public readonly string $path;

    /** The subprotocol agreed on (RFC 6455 section 1.9); empty when none. */
    public readonly string $protocol;

    /**
     * The session of an earlier connection goes on, its stream without a hole; or this connection, of any protocol, was
     * open before and comes from another worker (reload(), or the end of that worker): $data begins anew, what belongs to
     * the connection ($user, $session, channels) is as it was.
     */
    public readonly bool $resumed;

    /** Null on plain WebSocket. */
    public readonly ?WsSession $session;

    /** What onAuth has claimed, or bind() has set. */
    public readonly ?string $user;

    /** Yours. */
    public mixed $data = null;

    private function __construct() {}

    public function bind(string $user): void {}

    public function send(string $data, bool $binary = false): bool {}

    public function close(int $code = 1000, string $reason = ''): void {}

    public function abort(): void {}

    public function ping(string $payload = ''): void {}

    public function subscribe(string $channel): void {}

    public function unsubscribe(string $channel): void {}

    public function channels(): array {}

    public function isOpen(): bool {}

    public function bufferedBytes(): int {}

    public function rtt(): ?float {}

    public function stats(): array {}

    public function handshake(): WsRequest {}

    public function trace(bool $on): void {}
}

final class WsMessage implements \Stringable
{
    public readonly string $data;

    public readonly bool $binary;

    /** What to tell a message by that comes again; null on plain WebSocket. */
    public readonly ?string $id;

    /** Null: of the connection itself. */
    public readonly ?string $channel;

    /** Its number in the outbox (server), the session or the channel (client); null on plain WebSocket. */
    public readonly ?int $sequence;

    private function __construct() {}

    /**
     * The handler goes on after it has returned (coroutine, promise): the connection's next event comes after
     * ack() or reject(). An item that is dropped without either has failed.
     */
    public function defer(): void {}

    /** Ends what defer() began, and acknowledges an item of a client's outbox. Does nothing otherwise. */
    public function ack(): void {}

    /**
     * As ack(), but refuses the item: the client is told for good, or unless $permanent sends it again later, up
     * to redelivery.limit times.
     *
     * @param string $reason UTF-8, at most 1000 bytes
     * @param int $code yours, -2147483648 to 2147483647
     * @throws \ValueError
     */
    public function reject(string $reason = '', int $code = 0, bool $permanent = true): void {}

    /** The data. */
    public function __toString(): string {}
}

/**
 * A map of JSON values on a channel, which a server shares with the clients of it: {@see WsServer::document()}. Objects
 * come back as arrays. The server's is the authoritative one. Each change makes the document's next version, and that is
 * the key's, too.
 */
final class WsDocument
{
    public readonly string $channel;

    private function __construct() {}

    /**
     * The value of a key (null: there is none, or it is null), or all by key.
     *
     * @throws WsException the server has ended
     */
    public function get(?string $key = null): mixed {}

    /**
     * Sets a key, and tells all who follow the document.
     *
     * @param int|null $ifVersion the version that the key must have; 0: it must not exist
     * @return int its new version
     * @throws WsConflictException it has another version; nothing was changed
     * @throws \ValueError what JSON cannot hold, or is nested more than 64 deep
     * @throws WsException more keys or bytes than there may be; the server has ended
     */
    public function set(string $key, mixed $value, ?int $ifVersion = null): int {}

    /**
     * Removes a key, also one that there is not.
     *
     * @param int|null $ifVersion as of {@see set()}
     * @return int the document's new version
     * @throws WsConflictException|WsException as set()
     */
    public function delete(string $key, ?int $ifVersion = null): int {}

    /**
     * The version of a key (0: there is none), or the document's.
     *
     * @throws WsException the server has ended
     */
    public function version(?string $key = null): int {}

    /**
     * Clients have changed a key: once for its newest state, where it was changed several times meanwhile. What the
     * application changes itself is not told.
     *
     * @param callable(string $key, mixed $value, int $version, ?WsConnection $by, bool $deleted): void $callback $by: the
     *        client that did it, null when it has gone
     */
    public function onChange(callable $callback): static {}
}

/**
 * A server's document as a client follows and edits it: {@see WsClient::document()}. Edits show here at once, wait in the
 * outbox (on disk with outbox.path) while there is no connection, and are made at the server unless it has something
 * newer than what was seen here.
 */
final class WsReplica
{
    public readonly string $channel;

    private function __construct() {}

    /**
     * The value of a key with our own edits (null: there is none, or it is null), or all by key.
     *
     * @throws WsException closed
     */
    public function get(?string $key = null): mixed {}

    /**
     * Sets a key.
     *
     * @return int the edit's number in the outbox
     * @throws \ValueError what JSON cannot hold, or is nested more than 64 deep
     * @throws WsException as {@see WsClient::send()}
     */
    public function set(string $key, mixed $value): int {}

    /**
     * Removes a key.
     *
     * @return int the edit's number in the outbox
     * @throws WsException as {@see WsClient::send()}
     */
    public function delete(string $key): int {}

    /**
     * The version that the server confirmed last of a key (0: there is none), or of the document.
     *
     * @throws WsException closed
     */
    public function version(?string $key = null): int {}

    /**
     * A key has another value, and it was not we who changed it: once for its newest value.
     *
     * @param callable(string $key, mixed $value, int $version, bool $deleted): void $callback
     */
    public function onChange(callable $callback): static {}

    /**
     * An edit was not applied; told once for all edits of a key that were made on top of each other.
     *
     * @param callable(string $key, mixed $mine, mixed $theirs, string $resolution, string $reason): void $callback
     *        $resolution: server (its value holds), client (made again), merged, edited (again, before this was told: that
     *        edit stays), or refused: not allowed, too big, no such document, expired, for $reason
     */
    public function onConflict(callable $callback): static {}
}

/**
 * What a server keeps of a client over its connections (lifeline.v1), and values of yours in it: any that JSON
 * has, objects come back as arrays. They live as long as the session.
 *
 * @implements \ArrayAccess<array-key, mixed>
 */
final class WsSession implements \ArrayAccess
{
    public readonly string $id;

    /** Counts changes of the values. */
    public readonly int $version;

    /** What onAuth has claimed, or {@see WsConnection::bind()} has set. */
    public readonly ?string $user;

    /** @var array<string, mixed> what onAuth has returned last */
    public readonly array $claims;

    private function __construct() {}

    public function get(string $k, mixed $default = null): mixed {}

    /**
     * @param int|null $ifVersion the version that it must have
     * @return bool false: it has another, nothing was changed
     * @throws \ValueError what JSON cannot hold
     * @throws WsException the session has ended
     */
    public function set(string $k, mixed $v, ?int $ifVersion = null): bool {}

    /** @throws WsException the session has ended */
    public function delete(string $k): void {}

    /** @return array<array-key, mixed> */
    public function all(): array {}

    /**
     * Puts what $f makes of the values in their place; called again when they were changed meanwhile.
     *
     * @param callable(array<array-key, mixed> $values): array<array-key, mixed> $f
     * @return array<array-key, mixed> what was set
     * @throws WsException the session has ended
     */
    public function update(callable $f): array {}

    /**
     * To the client, now or when it comes back.
     *
     * @return int the message's number in the session's stream
     * @throws WsException the session has ended
     * @throws \ValueError text that is not UTF-8
     */
    public function send(string $data, bool $binary = false): int {}

    /** A connection has it. */
    public function isOnline(): bool {}

    public function offsetExists(mixed $offset): bool {}

    public function offsetGet(mixed $offset): mixed {}

    public function offsetSet(mixed $offset, mixed $value): void {}

    public function offsetUnset(mixed $offset): void {}
}

/** The request that asked for a connection. */
final class WsRequest
{
    public readonly string $method;

    /** Path and query as sent. */
    public readonly string $target;

    public readonly string $path;

    public readonly string $remoteAddress;

    /** @var array<array-key, mixed> as $_GET */
    public readonly array $query;

    /** @var array<string, string> names in lower case */
    public readonly array $headers;

    /** @var array<array-key, mixed> as $_COOKIE */
    public readonly array $cookies;

    /** @var list<string> subprotocols offered */
    public readonly array $protocols;

    public readonly ?string $origin;

    private function __construct() {}

    /** The header of that name in any case, several joined by ", "; null when absent. */
    public function header(string $name): ?string {}
}

/**
 * A client whose connection comes back by itself.
 *
 * @phpstan-type ClientOptions array{
 *   compression?: Compression,
 *   heartbeat?: Heartbeat,
 *   reconnect?: array{
 *     base?: int|float, max?: int|float, factor?: int|float, floor?: int|float,
 *     jitter?: 'full'|'equal'|'decorrelated'|'none', first?: int|float|null, maxAttempts?: positive-int|null,
 *     stableAfter?: int|float, mode?: 'eager'|'lazy',
 *     terminalCodes?: list<int<1000, 4999>>, terminalStatuses?: list<int<300, 599>>,
 *   },
 *   connect?: array{timeout?: int|float, headers?: Headers, proxy?: string|false|null},
 *   outbox?: array{
 *     limit?: positive-int, bytes?: positive-int, overflow?: 'error'|'block'|'dropOldest'|'dropNewest',
 *     blockTimeout?: int|float|null, ttl?: int|float|null,
 *     path?: string|null, durability?: 'always'|'interval'|'spill',
 *   },
 *   limits?: array{
 *     memory?: positive-int, maxMessage?: positive-int, maxFrame?: positive-int, maxFragments?: positive-int,
 *     inbound?: positive-int,
 *   },
 *   protocols?: list<string>,
 *   tls?: array{ca?: string|null, verify?: bool, cert?: string|null, key?: string|null}|null,
 *   logger?: Logger|null, logLevel?: LogLevel,
 * }
 * @phpstan-import-type Compression from WsServerInterface
 * @phpstan-import-type Heartbeat from WsServerInterface
 * @phpstan-import-type Logger from WsServerInterface
 * @phpstan-import-type LogLevel from WsServerInterface
 * @phpstan-import-type Headers from WsServerInterface
 */
final class WsClient implements WsClientInterface
{
    /**
     * Checks its arguments; connects to nothing yet.
     *
     * @param string|non-empty-list<string> $url ws:// wss:// unix://; several: failover in order
     * @param ClientOptions $options
     * @throws \ValueError|\TypeError naming the option or URL, what was given and what is allowed
     */
    public function __construct(#[\SensitiveParameter] string|array $url, #[\SensitiveParameter] array $options = []) {}

    public function on(string $event, callable $callback): static {}

    public function onOpen(callable $callback): static {}

    public function onMessage(callable $callback): static {}

    public function onClose(callable $callback): static {}

    public function onStateChange(callable $callback): static {}

    public function onConnecting(callable $callback): static {}

    public function onError(callable $callback): static {}

    public function onDrain(callable $callback): static {}

    public function onOverflow(callable $callback): static {}

    public function onToken(callable $callback): static {}

    public function onGap(callable $callback): static {}

    public function onSnapshot(callable $callback): static {}

    public function onReject(callable $callback): static {}

    public function connect(): void {}

    public function run(): void {}

    public function poll(float $timeout = 0.0): int {}

    public function tick(mixed ...$ignored): void {}

    public function stream(): mixed {}

    public function wake(): void {}

    public function send(string $data, bool $binary = false, ?float $ttl = null): int {}

    public function sendMany(array $messages, bool $binary = false): int {}

    public function receive(?float $timeout = null): ?WsMessage {}

    public function messages(): \Iterator {}

    public function flush(?float $timeout = null): bool {}

    public function subscribe(string $channel): void {}

    public function unsubscribe(string $channel): void {}

    public function document(string $channel, array $options = []): WsReplica {}

    public function state(): WsState {}

    public function unacknowledged(): int {}

    public function stats(): array {}

    public function close(int $code = 1000, string $reason = ''): void {}

    public function after(float $s, callable $f): int {}

    public function every(float $s, callable $f): int {}

    public function cancel(int $timer): void {}
}

/**
 * What {@see WsClient::messages()} returns.
 *
 * @implements \Iterator<int, WsMessage>
 */
final class WsMessageIterator implements \Iterator
{
    private function __construct() {}

    /** Waits for the next message; false: closed. */
    public function valid(): bool {}

    public function current(): mixed {}

    public function key(): int {}

    public function next(): void {}

    /** Does nothing: what was received is gone. */
    public function rewind(): void {}
}

enum WsState: string
{
    case Disconnected = 'disconnected';
    case Connecting = 'connecting';
    case Connected = 'connected';
    case Reconnecting = 'reconnecting';
    case Closed = 'closed';
}

/** A client's change of state. */
final class WsTransition
{
    public readonly WsState $from;

    public readonly WsState $to;

    /** Close code or HTTP status that caused it, else 0. */
    public readonly int $code;

    public readonly string $reason;

    /** Attempts since the last stable connection. */
    public readonly int $attempt;

    /** Seconds until the next attempt, when one is planned. */
    public readonly ?float $delay;

    private function __construct() {}
}

/** Messages that will not come. */
final class WsGap
{
    /** Null: messages of the session itself. */
    public readonly ?string $channel;

    /** The first that is missing. */
    public readonly int $from;

    /** The last; null: nobody knows, as what counted them is gone. */
    public readonly ?int $to;

    /**
     * `overflow`, `history`: more than resume.count, .bytes or .ttl keep; `slow`: read too slowly; `expired`, `unknown`,
     * `superseded`: the session has ended, or is somebody else's; `restart`, `epoch`: the server, or the channel, began anew;
     * `diverged`: the channel's log was rolled back. Others may come.
     */
    public readonly string $why;

    private function __construct() {}
}

/** Close codes: RFC 6455 section 7.4.1, the IANA registry, lifeline's own. */
final class WsClose
{
    public const NORMAL = 1000;
    public const GOING_AWAY = 1001;
    public const PROTOCOL_ERROR = 1002;
    public const UNSUPPORTED_DATA = 1003;
    /** Never on the wire: the close frame had no code. */
    public const NO_STATUS = 1005;
    /** Never on the wire: the connection ended without a close frame. */
    public const ABNORMAL = 1006;
    public const INVALID_PAYLOAD = 1007;
    public const POLICY_VIOLATION = 1008;
    public const MESSAGE_TOO_BIG = 1009;
    public const MANDATORY_EXTENSION = 1010;
    public const INTERNAL_ERROR = 1011;
    public const SERVICE_RESTART = 1012;
    public const TRY_AGAIN_LATER = 1013;
    public const BAD_GATEWAY = 1014;
    /** Never on the wire. */
    public const TLS_HANDSHAKE = 1015;
    public const SHUTDOWN = 4000;
    /** Reported only: the peer was found dead. */
    public const NO_PONG = 4001;
    public const SLOW_CONSUMER = 4002;
    public const TOKEN_EXPIRED = 4003;
    public const STATE_INVALID = 4004;
    public const RATE_LIMITED = 4005;
    /** Come back when there is something to say. */
    public const IDLE = 4006;
    public const UNAUTHORIZED = 4500;
    public const BAD_PROTOCOL = 4501;
    public const SUPERSEDED = 4502;
    public const BANNED = 4503;
    public const TOO_BIG = 4504;
    public const UNSUPPORTED_VERSION = 4505;

    private function __construct() {}
}

class WsException extends \RuntimeException
{
}

/** Connecting failed for good, or an address cannot be bound. The code is the HTTP status or close code, or 0. */
class WsConnectException extends WsException
{
}

/** The peer broke RFC 6455. */
class WsProtocolException extends WsException
{
}

/** The outbox is full, policy `error`. */
class WsOverflowException extends WsException
{
}

/** Something took longer than allowed: room in the outbox, policy `block`. */
class WsTimeoutException extends WsException
{
}

/**
 * Thrown by a server's onMessage: the message is refused, as by {@see WsMessage::reject()}, with the reason cut to 1000
 * bytes. Thrown by onAuth: the connection is closed with the code, where that is one of 4000 to 4999.
 */
class WsReject extends WsException
{
    public readonly bool $permanent;

    public function __construct(string $reason, int $code = 0, bool $permanent = true) {}
}

/** The disk of outbox.path or store: a directory in use, a full disk, an error, damage. Names the file. */
class WsStorageException extends WsException
{
}

/** A key of a {@see WsDocument} has another version than the one that was asked for. */
class WsConflictException extends WsException
{
}
