--TEST--
The interfaces carry the methods of the classes and can be mocked
--FILE--
<?php
require __DIR__ . '/inc/ws.php';
foreach (['WsServer', 'WsConnection'] as $name) {
    $class = new ReflectionClass($name);
    $interface = new ReflectionClass("{$name}Interface");
    $methods = fn ($of) => array_values(array_filter(array_map(fn ($m) => $m->getName(), $of->getMethods(ReflectionMethod::IS_PUBLIC)), fn ($m) => $m !== '__construct'));
    var_dump($interface->isInterface(), $methods($class) === $methods($interface), count($methods($class)) > 10);
}
$code = 'class FakeConnection implements WsConnectionInterface {';
foreach ((new ReflectionClass('WsConnectionInterface'))->getMethods() as $method) {
    $parameters = implode(', ', array_map(fn ($p) => $p->getType() . ' $' . $p->getName()
        . ($p->isOptional() ? ' = ' . var_export($p->getDefaultValue(), true) : ''), $method->getParameters()));
    $type = (string) $method->getReturnType();
    $code .= "public function {$method->getName()}($parameters): $type { " . ($type === 'void' ? '' : 'throw new Exception;') . " }\n";
}
eval($code . '}');
var_dump(new FakeConnection instanceof WsConnectionInterface);
?>
--EXPECT--
bool(true)
bool(true)
bool(true)
bool(true)
bool(true)
bool(true)
bool(true)
