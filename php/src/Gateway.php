<?php
declare(strict_types=1);

namespace Lifeline;

use WsConnection;
use WsServer;

/**
 * GatewayWorker's vocabulary over one WsServer, for applications that come from there: replace
 * `use GatewayWorker\Lib\Gateway` by `use Lifeline\Gateway`, and call {@see Gateway::attach()} once.
 *
 * What is not as there:
 * - One server: there is no register address, and nothing to configure. A call outside of its process, or its workers, throws.
 * - A client id is the connection's number as a string; there it is 20 hexadecimal digits. It is not used again
 *   while the process lives, and says nothing to the next one: do not keep it in a database.
 * - A uid is a lifeline user ({@see WsConnection::bind()}), a group a channel ({@see WsConnection::subscribe()}): what
 *   callbacks and `$server` do with these is seen here, and the other way round. Numbers are taken for both.
 * - Clients that speak lifeline.v1 get what was sent to their uid or group while their link was broken when they are
 *   back; isOnline(), isUidOnline() and counts are of connections.
 * - send methods return after the message is queued; false or 0: there was nobody to send it to.
 * - The session of a client is of its connection and lives in the process that runs its callbacks; `$_SESSION` is not filled.
 *   With the option `workers` it is gone after a reload, and other workers do not see it: what has to stay belongs elsewhere.
 * - One client is in at most `limits.maxSubscriptions` groups (128): beyond that joinGroup() throws a WsException.
 */
final class Gateway
{
    /** Begins the user of a connection that was bound and is not any more. */
    private const UNBOUND = "\u{1}unbound:";

    private static ?WsServer $server = null;
    /** @var \WeakMap<WsConnection, array<string, mixed>>|null */
    private static ?\WeakMap $sessions = null;

    /**
     * Which server all other methods are about.
     *
     * With a class or an object as GatewayWorker's Events, its onConnect($clientId), onWebSocketConnect($clientId, $data),
     * onMessage($clientId, $message) and onClose($clientId), where they exist, become the server's callbacks. $data has `get`,
     * `server` and `cookie` as there.
     */
    public static function attach(WsServer $server, string|object|null $events = null): void
    {
        self::$server = $server;
        self::$sessions = new \WeakMap();
        if ($events === null) {
            return;
        }
        $has = static fn (string $method): ?\Closure => is_callable([$events, $method]) ? \Closure::fromCallable([$events, $method]) : null;
        [$connect, $upgrade, $message, $close] = array_map($has, ['onConnect', 'onWebSocketConnect', 'onMessage', 'onClose']);
        if ($connect || $upgrade) {
            $server->onOpen(static function (WsConnection $c, \WsRequest $r) use ($connect, $upgrade): void {
                if ($c->resumed && $c->session === null) {
                    return; // It comes from another worker, under the id that it had.
                }
                $connect && $connect((string) $c->id);
                $upgrade && $upgrade((string) $c->id, ['get' => $r->query, 'server' => self::variables($r), 'cookie' => $r->cookies]);
            });
        }
        if ($message) {
            $server->onMessage(static fn (WsConnection $c, string $data) => $message((string) $c->id, $data));
        }
        if ($close) {
            $server->onClose(static fn (WsConnection $c) => $close((string) $c->id));
        }
    }

    /** To all, or to those clients; returns how many. */
    public static function sendToAll(string $message, ?array $clientIds = null, array|int|string|null $exclude = null): int
    {
        if ($clientIds === null) {
            return self::server()->broadcast($message, false, self::ids($exclude));
        }
        $left = array_diff(array_map(intval(...), $clientIds), self::ids($exclude));
        return count(array_filter($left, static fn (int $id): bool => self::sendToClient($id, $message)));
    }

    public static function sendToClient(int|string $clientId, string $message): bool
    {
        return self::find($clientId)?->send($message) ?? false;
    }

    /** @param int|string|list<int|string> $uid one or several; who has two of them gets it once for each */
    public static function sendToUid(int|string|array $uid, string $message): int
    {
        return array_sum(array_map(static fn ($uid): int => self::server()->sendToUser((string) $uid, $message), (array) $uid));
    }

    /** @param int|string|list<int|string> $group one or several; who is in two of them gets it once for each */
    public static function sendToGroup(int|string|array $group, string $message, array|int|string|null $exclude = null): int
    {
        $except = self::ids($exclude);
        return array_sum(array_map(static fn ($group): int => self::server()->publish((string) $group, $message, false, $except), (array) $group));
    }

    /** False: there is no such client. One client has one uid: a second takes the place of the first. */
    public static function bindUid(int|string $clientId, int|string $uid): bool
    {
        self::find($clientId)?->bind((string) $uid);
        return self::isOnline($clientId);
    }

    /** Nothing happens unless the client has that uid. */
    public static function unbindUid(int|string $clientId, int|string $uid): void
    {
        $client = self::find($clientId);
        if ($client?->user === (string) $uid) {
            $client->bind(self::UNBOUND . $client->id);
        }
    }

    public static function isUidOnline(int|string $uid): bool
    {
        return self::server()->isOnline((string) $uid);
    }

    /** @return list<string> */
    public static function getClientIdByUid(int|string $uid): array
    {
        return self::numbers(self::server()->connectionsOf((string) $uid));
    }

    public static function getUidByClientId(int|string $clientId): ?string
    {
        $client = self::find($clientId);
        return $client ? self::uid($client) : null;
    }

    /** @return array<string, string> uid => uid, of who is connected */
    public static function getAllUidList(): array
    {
        return self::uids(self::server()->connections());
    }

    public static function getAllUidCount(): int
    {
        return count(self::getAllUidList());
    }

    /** False: there is no such client. */
    public static function joinGroup(int|string $clientId, int|string $group): bool
    {
        self::find($clientId)?->subscribe((string) $group);
        return self::isOnline($clientId);
    }

    /** False: there is no such client. */
    public static function leaveGroup(int|string $clientId, int|string $group): bool
    {
        self::find($clientId)?->unsubscribe((string) $group);
        return self::isOnline($clientId);
    }

    /** Everybody leaves it. */
    public static function ungroup(int|string $group): void
    {
        foreach (self::server()->members((string) $group) as $client) {
            $client->unsubscribe((string) $group);
        }
    }

    /** @return list<string> groups with a member */
    public static function getAllGroupIdList(): array
    {
        return self::server()->channels();
    }

    /** @return array<int|string, string> client id => client id */
    public static function getClientIdListByGroup(int|string $group): array
    {
        return self::keyed(self::server()->members((string) $group));
    }

    public static function getClientIdCountByGroup(int|string $group): int
    {
        return count(self::server()->members((string) $group));
    }

    /** As {@see Gateway::getClientIdCountByGroup()}, by its older name. */
    public static function getClientCountByGroup(int|string $group): int
    {
        return self::getClientIdCountByGroup($group);
    }

    /** @return array<string, string> uid => uid */
    public static function getUidListByGroup(int|string $group): array
    {
        return self::uids(self::server()->members((string) $group));
    }

    public static function getUidCountByGroup(int|string $group): int
    {
        return count(self::getUidListByGroup($group));
    }

    /** @return array<int|string, array<string, mixed>> client id => session */
    public static function getClientSessionsByGroup(int|string $group): array
    {
        return self::sessions(self::server()->members((string) $group));
    }

    /** @return array<int|string, array<string, mixed>> client id => session */
    public static function getAllClientSessions(): array
    {
        return self::sessions(self::server()->connections());
    }

    /** @return array<int|string, string> client id => client id */
    public static function getAllClientIdList(): array
    {
        return self::keyed(self::server()->connections());
    }

    public static function getAllClientIdCount(): int
    {
        return count(self::server());
    }

    /** As {@see Gateway::getAllClientIdCount()}, by its older name. */
    public static function getAllClientCount(): int
    {
        return self::getAllClientIdCount();
    }

    public static function isOnline(int|string $clientId): bool
    {
        return self::find($clientId)?->isOpen() ?? false;
    }

    /** Sends $message, if there is one, and closes with 1000. False: there is no such client. */
    public static function closeClient(int|string $clientId, ?string $message = null): bool
    {
        $client = self::find($clientId);
        if ($message !== null) {
            $client?->send($message);
        }
        $client?->close();
        return $client !== null;
    }

    /** Cuts the connection: what is queued is not sent. False: there is no such client. */
    public static function destoryClient(int|string $clientId): bool
    {
        $client = self::find($clientId);
        $client?->abort();
        return $client !== null;
    }

    /**
     * Replaces the client's session. False: there is no such client.
     *
     * @param array<string, mixed> $session
     */
    public static function setSession(int|string $clientId, array $session): bool
    {
        if (!$client = self::find($clientId)) {
            return false;
        }
        self::$sessions[$client] = $session;
        return true;
    }

    /**
     * Replaces these values of it, at any depth. False: there is no such client.
     *
     * @param array<string, mixed> $session
     */
    public static function updateSession(int|string $clientId, array $session): bool
    {
        return self::setSession($clientId, array_replace_recursive(self::getSession($clientId) ?? [], $session));
    }

    /** @return array<string, mixed>|null null: there is no such client */
    public static function getSession(int|string $clientId): ?array
    {
        $client = self::find($clientId);
        return $client ? self::$sessions[$client] ?? [] : null;
    }

    private static function server(): WsServer
    {
        return self::$server ?? throw new \LogicException('Lifeline\Gateway::attach($server) comes first, in the process that serves');
    }

    private static function find(int|string $clientId): ?WsConnection
    {
        $server = self::server();
        // Ids of GatewayWorker, from before, are nobody's.
        return (string) (int) $clientId === (string) $clientId ? $server->connection((int) $clientId) : null;
    }

    private static function uid(WsConnection $client): ?string
    {
        return $client->user === null || str_starts_with($client->user, self::UNBOUND) ? null : $client->user;
    }

    /** @return list<int> */
    private static function ids(array|int|string|null $clientIds): array
    {
        return array_map(intval(...), (array) $clientIds);
    }

    /** @param iterable<WsConnection> $clients @return list<string> */
    private static function numbers(iterable $clients): array
    {
        return array_map(static fn (WsConnection $c): string => (string) $c->id, [...$clients]);
    }

    /** @param iterable<WsConnection> $clients @return array<int|string, string> */
    private static function keyed(iterable $clients): array
    {
        $numbers = self::numbers($clients);
        return array_combine($numbers, $numbers);
    }

    /** @param iterable<WsConnection> $clients @return array<string, string> */
    private static function uids(iterable $clients): array
    {
        $uids = array_filter(array_map(self::uid(...), [...$clients]), static fn (?string $uid): bool => $uid !== null);
        return array_combine($uids, $uids);
    }

    /** @param iterable<WsConnection> $clients @return array<int|string, array<string, mixed>> */
    private static function sessions(iterable $clients): array
    {
        $sessions = [];
        foreach ($clients as $client) {
            $sessions[$client->id] = self::$sessions[$client] ?? [];
        }
        return $sessions;
    }

    /** As a CGI program sees them. @return array<string, string> */
    private static function variables(\WsRequest $r): array
    {
        $variables = ['REQUEST_METHOD' => $r->method, 'REQUEST_URI' => $r->target, 'QUERY_STRING' => (string) parse_url($r->target, PHP_URL_QUERY), 'REMOTE_ADDR' => $r->remoteAddress];
        foreach ($r->headers as $name => $value) {
            $variables['HTTP_' . strtoupper(strtr((string) $name, '-', '_'))] = is_array($value) ? implode(', ', $value) : $value;
        }
        return $variables;
    }
}
