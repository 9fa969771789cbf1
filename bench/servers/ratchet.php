<?php
// Ratchet; the same paths as lifeline.php. PORT, AUTOLOAD.
declare(strict_types=1);

use Ratchet\ConnectionInterface;
use Ratchet\RFC6455\Messaging\MessageInterface;
use Ratchet\WebSocket\MessageComponentInterface;

require getenv('AUTOLOAD');

$handler = new class implements MessageComponentInterface {
    private SplObjectStorage $subscribers;
    private SplObjectStorage $publishers;
    private int $opened = 0;
    private int $closed = 0;

    public function __construct()
    {
        $this->subscribers = new SplObjectStorage();
        $this->publishers = new SplObjectStorage();
    }

    public function onOpen(ConnectionInterface $c): void
    {
        ++$this->opened;
        match ($c->httpRequest->getUri()->getPath()) {
            '/subscribe' => $this->subscribers->attach($c),
            '/publish' => $this->publishers->attach($c),
            default => null,
        };
    }

    public function onMessage(ConnectionInterface $c, MessageInterface $message): void
    {
        if ($this->publishers->contains($c)) {
            foreach ($this->subscribers as $subscriber) {
                $subscriber->send($message);
            }
            return;
        }
        $c->send($message);
    }

    public function onClose(ConnectionInterface $c): void
    {
        ++$this->closed;
        $this->subscribers->detach($c);
        $this->publishers->detach($c);
    }

    public function onError(ConnectionInterface $c, Exception $e): void
    {
        $c->close();
    }
};
$loop = React\EventLoop\Loop::get();
$port = (int) getenv('PORT');
$socket = new React\Socket\SocketServer("127.0.0.1:$port", ['tcp' => ['backlog' => 4096, 'so_reuseport' => false]], $loop);
$ws = new Ratchet\WebSocket\WsServer($handler);
$ws->enableKeepAlive($loop, 25);
$server = new Ratchet\Server\IoServer(new Ratchet\Http\HttpServer($ws), $socket, $loop);
echo "listening ws://127.0.0.1:$port\n";
$server->run();
