--TEST--
An outbox on disk and fork: the child does not touch the log, and does not keep the directory when the parent is gone
--EXTENSIONS--
lifeline
pcntl
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
require __DIR__ . '/../inc/durable.php';
$server = collector($got);
$directory = outbox_directory();
$code = <<<'PHP'
    $options = ['outbox' => ['path' => $argv[1]]];
    $client = new WsClient('ws://127.0.0.1:1', $options);
    $client->send('parent');
    $parent = getmypid();
    if (pcntl_fork() === 0) {
        // Its threads may write what is theirs to write: what they do not write from here on, nobody else must.
        exec("kill -STOP $parent");
        foreach (glob("/proc/$parent/task/*/stat") as $thread) {
            while (!str_contains(file_get_contents($thread), ') T ')) { usleep(1000); }
        }
        $content = md5_file(glob("$argv[1]/*.log")[0]);
        try { $client->send('child'); } catch (Error $error) { echo get_class($error), "\n"; }
        try { (new WsClient('ws://127.0.0.1:1', $options))->send('child'); } catch (WsStorageException $error) { echo str_contains($error->getMessage(), 'in use by process ' . $parent) ? "parent's\n" : $error->getMessage(); }
        unset($client);
        echo $content === md5_file(glob("$argv[1]/*.log")[0]) ? "same\n" : "touched\n";
        exec("kill -9 $parent");
        // Lives on with all that it has inherited.
        fclose(STDOUT);
        fclose(STDERR);
        sleep(30);
        exit(0);
    }
    sleep(30);
    PHP;
[$process, $output] = other($code, [$directory]);
echo stream_get_contents($output);
while (proc_get_status($process)['running']) { usleep(1000); }
$client = new WsClient($server->address(), ['protocols' => [], 'outbox' => ['path' => $directory]]);
$client->connect();
var_dump($client->flush(10));
arrived($server, $got, 1);
echo implode(' ', $got), "\n";
$client->close();
$client->run();
?>
--EXPECT--
Error
parent's
same
bool(true)
parent
