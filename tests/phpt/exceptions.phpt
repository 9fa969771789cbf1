--TEST--
The exception classes are plain exceptions: parents, constructors, subclasses, file and trace
--FILE--
<?php
require __DIR__ . '/inc/ws.php';
foreach (['WsConnectException', 'WsProtocolException', 'WsOverflowException', 'WsTimeoutException', 'WsStorageException', 'WsConflictException'] as $class) {
    echo $class, ' ', implode(' ', class_parents($class)), "\n";
}
class Mine extends WsTimeoutException
{
    public function __construct(public string $more) { parent::__construct("mine: $more", 7, new LogicException('cause')); }
}
function thrower() { throw new Mine('x'); }
try {
    thrower();
} catch (WsException $e) {
    echo get_class($e), ' ', $e->getMessage(), ' ', $e->getCode(), ' ', $e->getLine(), ' ', basename($e->getFile()), ' ',
        get_class($e->getPrevious()), ' ', $e->more, "\n", $e->getTrace()[0]['function'], "\n";
}
?>
--EXPECT--
WsConnectException WsException RuntimeException Exception
WsProtocolException WsException RuntimeException Exception
WsOverflowException WsException RuntimeException Exception
WsTimeoutException WsException RuntimeException Exception
WsStorageException WsException RuntimeException Exception
WsConflictException WsException RuntimeException Exception
Mine mine: x 7 10 exceptions.php LogicException x
thrower
