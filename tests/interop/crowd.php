<?php
// Clients of lifeline.v1 that send numbered messages and count the answers, until stdin ends; then they wait for what is missing.
//   crowd.php URL COUNT
// Tells lines of JSON: {"event":"going"} when each has had an answer, {"event":"moved","count":n} reconnects so far,
// {"event":"done","sent":[…],"answered":[…],"gaps":[…],"refused":[…],"errors":[…]}
declare(strict_types=1);

function tell(string $event, array $more = []): void
{
    fwrite(STDOUT, json_encode(['event' => $event] + $more, JSON_THROW_ON_ERROR) . "\n");
}

[, $url, $count] = $argv;
$clients = $sent = $answered = $errors = [];
$gaps = $refused = [];
$moves = 0;
for ($number = 0; $number < (int) $count; $number++) {
    $client = new WsClient($url, ['reconnect' => ['base' => 0.05, 'max' => 0.2]]);
    $client->onMessage(function (WsClient $c, string $data) use (&$answered): void {
        $answered[$data] = ($answered[$data] ?? 0) + 1;
    });
    $client->onGap(function (WsGap $gap) use (&$gaps): void {
        $gaps[] = "$gap->channel $gap->why";
    });
    $client->onError(function (Throwable $e) use (&$errors): void {
        $errors[] = $e->getMessage();
    });
    $client->onStateChange(function (WsTransition $t) use (&$refused): void {
        if ($t->from === WsState::Connecting && $t->to === WsState::Reconnecting) {
            $refused[] = "$t->code $t->reason";
        }
    });
    $client->onOpen(function () use (&$moves): void {
        tell('opened', ['count' => ++$moves]);
    });
    $client->connect();
    $clients[] = $client;
}
$turn = 0;
$clients[0]->every(0.02, function () use ($clients, &$sent, &$turn): void {
    foreach ($clients as $number => $client) {
        $client->send($sent[] = "$number:$turn");
    }
    $turn++;
});
stream_set_blocking(STDIN, false);
$stream = $clients[0]->stream();
$going = false;
do {
    $read = [STDIN, $stream];
    $none = null;
    stream_select($read, $none, $none, 1);
    $clients[0]->tick();
    if (!$going && count(array_unique(array_map(fn (string $text): string => strtok($text, ':'), array_keys($answered)))) === (int) $count) {
        $going = true;
        tell('going');
    }
} while (fread(STDIN, 1024) !== '' || !feof(STDIN));
foreach ($clients as $client) {
    $client->flush(20);
}
// An answer may be behind the acknowledgement of what it answers.
$end = microtime(true) + 10;
while (array_diff($sent, array_keys($answered)) !== [] && microtime(true) < $end) {
    $clients[0]->poll(0.05);
}
tell('done', ['sent' => $sent, 'answered' => $answered, 'gaps' => $gaps, 'refused' => $refused, 'errors' => $errors, 'unacknowledged' => array_sum(array_map(fn (WsClient $c): int => $c->unacknowledged(), $clients))]);
