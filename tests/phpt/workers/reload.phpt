--TEST--
workers: new code takes over without a close: by SIGUSR1 and by reload(), $resumed, user and channels; nothing is lost, nothing out of order
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/workers.php';
$code = fn (string $version) => <<<CODE
\$server = site();
\$server->onOpen(function (\$c) { if (!\$c->resumed) { \$c->bind('somebody'); \$c->subscribe('room'); } \$c->data = 'fresh'; });
\$server->onMessage(function (\$c, \$data) use (\$server) {
    if (\$data === 'reload') { \$server->reload(); return; }
    if (\$data === 'tell') { \$data = json_encode([\$c->id, \$c->resumed, \$c->user, \$c->channels(), \$c->data, \$c->path, \$c->handshake()->header('x-kept')]); \$c->data = 'seen'; }
    \$c->send("$version \$data");
});
\$server->onClose(fn (\$c) => file_put_contents(__DIR__ . '/closed', "\$c->id\n", FILE_APPEND));
run_site(\$server);
file_put_contents(__DIR__ . '/ended', getenv('LIFELINE_WORKER') . "\n", FILE_APPEND);
CODE;
$site = new Site($code('first'));
$peer = $site->peer('/path', ['X-Kept: yes']);
$other = $site->peer('/other');
echo $site->ask($peer, 'tell'), "\n", $site->ask($peer, 'tell'), "\n";
$site->reload($code('second'));
meanwhile(fn () => str_starts_with($site->ask($peer, 'wait'), 'second'), 'the new worker');
echo $site->ask($peer, 'tell'), "\n";
// From a worker, with messages under way all the time.
$site->change($code('third'));
$other->text('reload');
$sent = $got = 0;
$versions = [];
while (!isset($versions['third']) || $got < $sent) {
    if ($sent - $got < 50 && !isset($versions['third'])) {
        $peer->text((string) $sent++);
    }
    while ($got < $sent && ($frame = $peer->poll('frame')) !== null) {
        [$version, $number] = explode(' ', $frame[1]);
        $versions[$version] = true;
        if ((int) $number !== $got++) {
            exit("$number came in the place of " . ($got - 1));
        }
    }
}
echo json_encode(array_keys($versions)), ' ', $got === $sent ? 'all' : 'some', "\n";
echo $site->ask($peer, 'tell'), "\n";
meanwhile(fn () => is_file("$site->directory/ended") && count(file("$site->directory/ended")) === 4, 'the end of the old workers');
var_dump(is_file("$site->directory/closed"));
?>
--EXPECT--
first [1,false,"somebody",["room"],"fresh","\/path","yes"]
first [1,false,"somebody",["room"],"seen","\/path","yes"]
second [1,true,"somebody",["room"],"fresh","\/path","yes"]
["second","third"] all
third [1,true,"somebody",["room"],"fresh","\/path","yes"]
bool(false)
