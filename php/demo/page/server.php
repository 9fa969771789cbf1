<?php
// The page of `make serve`: a chat with presence, and what a connection goes through. Also an echo on /echo.
//   php php/demo/page/server.php [ws://127.0.0.1:8080] [directory for what outlives a restart]
// With LIFELINE_DEMO=1 (as scripts/serve.sh has it, which starts it again) visitors may cut links, block PHP and kill
// the server.
declare(strict_types=1);

if (function_exists('pcntl_async_signals')) {
    pcntl_async_signals(true);
}

const HISTORY = 100;
const BLOCK = 10.0;
const FIRST_CARDS = [
    '1' => ['text' => 'Block PHP, then move a card', 'list' => 0],
    '2' => ['text' => 'Edit a card in two tabs, one of them offline', 'list' => 0],
    '3' => ['text' => 'Read what happened', 'list' => 1],
    '4' => ['text' => 'Open this page', 'list' => 2],
];

$state = $argv[2] ?? sys_get_temp_dir() . '/lifeline-page-' . getmypid();
is_dir($state) || mkdir($state, 0700, true);
$harm = getenv('LIFELINE_DEMO') === '1';

$server = new WsServer($argv[1] ?? 'ws://127.0.0.1:8080', [
    'static' => __DIR__ . '/public',
    'healthPath' => '/health',
    'store' => "file://$state/sessions",
    'heartbeat' => ['interval' => 5, 'timeout' => 4],
    'resume' => ['ttl' => 60],
    'watchdog' => ['lag' => 3],
    'limits' => ['maxMessage' => 64 * 1024, 'messageRate' => 50],
]);

/** The last messages, oldest first: what a newcomer sees. Each has a number of its own. */
$history = json_decode((string) @file_get_contents("$state/history.json"), true) ?: [];
/** Session id => name, whether it is connected, and a name that others may see. */
$people = [];
$blockedUntil = 0.0;
/** Tells one life of this process from the next. */
$epoch = bin2hex(random_bytes(4));

$tell = fn (array $what) => $server->publish('room', json_encode($what, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE));
$past = function () use (&$history): string {
    return json_encode(['type' => 'history', 'items' => array_values($history)], JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE);
};
$say = function (string $from, string $who, string $text, ?string $key) use (&$history, $state, $tell): void {
    $item = ['n' => (end($history)['n'] ?? 0) + 1, 'at' => (int) (microtime(true) * 1000), 'from' => $from, 'who' => $who,
        'text' => $text, 'key' => $key];
    $history = array_slice([...$history, $item], -HISTORY);
    // Before anybody sees it: a number is never given twice.
    file_put_contents("$state/history.new", json_encode($history, JSON_THROW_ON_ERROR));
    rename("$state/history.new", "$state/history.json");
    $tell(['type' => 'said', 'item' => $item]);
};
$gather = function () use (&$people, $tell): void {
    $tell(['type' => 'people', 'people' => array_values($people)]);
};
$name = function (mixed $given): string {
    return letters(trim((string) preg_replace('/[\p{C}\s]+/u', ' ', is_string($given) ? $given : '')), 24);
};

/** At most so many letters; nothing of what is no UTF-8. */
function letters(string $text, int $most): string
{
    return preg_match("/^.{0,$most}/us", $text, $found) ? $found[0] : '';
}

$server->onOpen(function (WsConnection $c) use (&$people, $gather, $past, $harm, $epoch): void {
    if ($c->session === null || $c->path === '/echo') {
        return;
    }
    $id = $c->session->id;
    $who = substr(hash('sha256', $id), 0, 8);
    $people[$id] = ['who' => $who, 'name' => $c->session->get('name', "guest-$who"), 'here' => true];
    $c->subscribe('room');
    $c->send(json_encode(['type' => 'welcome', 'who' => $who, 'harm' => $harm, 'epoch' => $epoch, 'block' => BLOCK]));
    if (!$c->resumed) {
        $c->send($past());
    }
    $gather();
});

$server->onMessage(function (WsConnection $c, string $data, bool $binary) use ($server, &$people, &$blockedUntil, $gather, $say, $name, $tell, $harm): void {
    if ($c->path === '/echo') {
        $c->send($data, $binary);
        return;
    }
    $asked = json_decode($data, true);
    if ($c->session === null || !is_array($asked)) {
        return;
    }
    $person = &$people[$c->session->id];
    $type = $asked['type'] ?? null;
    if (!$harm && in_array($type, ['cut', 'block', 'restart'], true)) {
        throw new WsReject('not here');
    }
    switch ($type) {
        case 'hello':
            $person['name'] = $name($asked['name'] ?? '') ?: $person['name'];
            $c->session->set('name', $person['name']);
            $gather();
            break;
        case 'say':
            $text = is_string($asked['text'] ?? null) ? letters(trim($asked['text']), 1000) : '';
            $key = is_string($asked['key'] ?? null) ? substr($asked['key'], 0, 40) : null;
            if ($text !== '') {
                $say($person['name'], $person['who'], $text, $key);
            }
            break;
        // What follows is for the demonstration only. What ends the connection waits until it is acknowledged, or it would come again and again.
        case 'cut':
            $server->after(0.1, fn () => $c->abort());
            break;
        case 'block':
            // Those that were pressed while the last one went on are not made up for.
            if (microtime(true) > $blockedUntil + 0.5) {
                $tell(['type' => 'blocked', 'by' => $person['name'], 'seconds' => BLOCK]);
                $blockedUntil = microtime(true) + BLOCK;
                while (microtime(true) < $blockedUntil) {
                    usleep(20_000);
                }
                $tell(['type' => 'unblocked']);
            }
            break;
        case 'restart':
            $tell(['type' => 'restarting', 'by' => $person['name']]);
            $server->after(0.3, fn () => exec('kill -9 ' . getmypid()));
            break;
    }
});
$server->onSubscribe(fn (WsConnection $c, string $channel): bool => $channel === 'board');
$server->onSnapshot(fn (string $channel): string => $past());
$server->onClose(function (WsConnection $c) use (&$people, $gather): void {
    $id = $c->session?->id;
    if ($id !== null && isset($people[$id])) {
        $people[$id]['here'] = false;
        $gather();
    }
});
$server->onSessionEnd(function (WsSession $s) use (&$people, $gather): void {
    unset($people[$s->id]);
    $gather();
});
if (function_exists('pcntl_signal')) {
    foreach ([SIGINT, SIGTERM] as $signal) {
        pcntl_signal($signal, fn () => $server->stop(1.0));
    }
}

$server->start();

// Cards by key. Who is on the channel may edit it, without PHP; what PHP keeps of it is for the next process.
$board = $server->document('board', ['keys' => 100, 'bytes' => 64 * 1024]);
foreach (json_decode((string) @file_get_contents("$state/board.json"), true) ?? FIRST_CARDS as $key => $card) {
    $board->set((string) $key, $card);
}
$board->onChange(function () use ($board, $state): void {
    file_put_contents("$state/board.new", json_encode($board->get(), JSON_THROW_ON_ERROR | JSON_FORCE_OBJECT));
    rename("$state/board.new", "$state/board.json");
});
$address = $server->address();
// A restart is to listen there again.
file_put_contents("$state/address", $address);
echo 'Open ', preg_replace('/^ws/', 'http', $address), "/ in a browser; echo on $address/echo. Ctrl-C stops it.", PHP_EOL;
$server->run();
