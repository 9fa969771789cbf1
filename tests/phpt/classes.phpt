--TEST--
The classes are final, made by lifeline only, and cannot be cloned, serialised or grown
--FILE--
<?php
require __DIR__ . '/inc/ws.php';
$server = new WsServer('ws://127.0.0.1:0');
foreach (['WsServer', 'WsConnection', 'WsMessage', 'WsRequest'] as $name) {
    $class = new ReflectionClass($name);
    echo $name, ' ', $class->isFinal() ? 'final ' : '', implode(' ', $class->getInterfaceNames()), "\n";
    foreach ($class->getProperties() as $property) {
        echo '  ', $property->isReadOnly() ? 'readonly ' : '', $property->getType(), ' $', $property->getName(), "\n";
    }
    if ($name !== 'WsServer') {
        try { new $name; } catch (Error $e) { echo '  ', $e->getMessage(), "\n"; }
    }
}
foreach (['clone' => fn () => clone $server, 'serialize' => fn () => serialize($server), 'grow' => fn () => $server->thing = 1,
    'twice' => fn () => $server->__construct('ws://127.0.0.1:1'), 'bare' => fn () => (new ReflectionClass('WsServer'))->newInstanceWithoutConstructor()] as $what => $try) {
    try { $try(); echo "$what worked\n"; } catch (Throwable $e) { echo get_class($e), ': ', $e->getMessage(), "\n"; }
}
?>
--EXPECT--
WsServer final Countable WsServerInterface
WsConnection final WsConnectionInterface
  readonly int $id
  readonly string $remoteAddress
  readonly string $path
  readonly string $protocol
  readonly bool $resumed
  readonly ?WsSession $session
  readonly ?string $user
  mixed $data
  Call to private WsConnection::__construct() from global scope
WsMessage final Stringable
  readonly string $data
  readonly bool $binary
  readonly ?string $id
  readonly ?string $channel
  readonly ?int $sequence
  Call to private WsMessage::__construct() from global scope
WsRequest final 
  readonly string $method
  readonly string $target
  readonly string $path
  readonly string $remoteAddress
  readonly array $query
  readonly array $headers
  readonly array $cookies
  readonly array $protocols
  readonly ?string $origin
  Call to private WsRequest::__construct() from global scope
Error: Trying to clone an uncloneable object of class WsServer
Exception: Serialization of 'WsServer' is not allowed
Error: Cannot create dynamic property WsServer::$thing
Error: a WsServer cannot be constructed twice
ReflectionException: Class WsServer is an internal class marked as final that cannot be instantiated without invoking its constructor
