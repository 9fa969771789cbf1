--TEST--
The stubs say what the extension has, but for the committed differences
--EXTENSIONS--
lifeline
--FILE--
<?php
// The stub is loaded into a namespace of its own and both sides are described by reflection.
$folder = __DIR__ . '/../../php/stubs';
$source = file_get_contents("$folder/lifeline.stub.php");
eval('namespace LifelineStub;' . substr($source, strlen('<?php')));

/** @return array<string, string> what can be said of a class, one fact a line */
function describe(ReflectionClass $class, string $prefix): array
{
    $plain = fn (string $text): string => str_replace($prefix, '', $text);
    $name = $plain($class->getName());
    $facts = [];
    $kind = $class->isInterface() ? 'interface' : ($class->isEnum() ? 'enum' : 'class');
    $facts["$name kind"] = $kind;
    $facts["$name final"] = var_export($class->isFinal(), true);
    $facts["$name abstract"] = var_export($kind === 'class' && $class->isAbstract(), true);
    $facts["$name extends"] = $class->getParentClass() ? $plain($class->getParentClass()->getName()) : '';
    $interfaces = array_map($plain, $class->getInterfaceNames());
    sort($interfaces);
    $facts["$name implements"] = implode(', ', $interfaces);
    foreach ($class->getReflectionConstants() as $constant) {
        if ($constant->getDeclaringClass()->getName() === $class->getName()) {
            $value = $constant->getValue();
            $value = $value instanceof BackedEnum ? $value->value : $value;
            $visibility = implode(' ', Reflection::getModifierNames($constant->getModifiers()));
            $facts["$name::{$constant->getName()}"] = $visibility . ' ' . var_export($value, true);
        }
    }
    foreach ($class->getProperties() as $property) {
        if ($property->getDeclaringClass()->getName() === $class->getName()) {
            $facts["$name::\${$property->getName()}"] = implode(' ', [
                ...Reflection::getModifierNames($property->getModifiers()),
                type($property->getType(), $plain),
                $property->hasDefaultValue() ? '= ' . var_export($property->getDefaultValue(), true) : '',
            ]);
        }
    }
    foreach ($class->getMethods() as $method) {
        if ($method->getDeclaringClass()->getName() !== $class->getName()) {
            continue;
        }
        $place = "$name::{$method->getName()}()";
        $facts["$place flags"] = implode(' ', Reflection::getModifierNames($method->getModifiers()));
        $facts["$place returns"] = type($method->getReturnType() ?? $method->getTentativeReturnType(), $plain);
        $order = [];
        foreach ($method->getParameters() as $parameter) {
            $order[] = '$' . $parameter->getName();
            $facts["$place \${$parameter->getName()}"] = implode(' ', array_filter([
                type($parameter->getType(), $plain),
                $parameter->isVariadic() ? 'variadic' : '',
                $parameter->isPassedByReference() ? 'by reference' : '',
                $parameter->isOptional() ? 'optional' : 'required',
                ...array_map(fn (ReflectionAttribute $attribute): string => "#[{$attribute->getName()}]", $parameter->getAttributes()),
                $parameter->isDefaultValueAvailable() ? '= ' . var_export($parameter->getDefaultValue(), true) : '',
            ]));
        }
        $facts["$place parameters"] = implode(', ', $order);
    }
    return $facts;
}

function type(?ReflectionType $type, callable $plain): string
{
    if ($type === null) {
        return 'untyped';
    }
    if ($type instanceof ReflectionUnionType) {
        $names = array_map(fn (ReflectionType $part): string => $plain((string) $part), $type->getTypes());
        sort($names);
        return implode('|', $names);
    }
    return $plain((string) $type);
}

$stub = $built = [];
foreach ([...get_declared_classes(), ...get_declared_interfaces()] as $name) {
    $class = new ReflectionClass($name);
    if (str_starts_with($name, 'LifelineStub\\')) {
        $stub += describe($class, 'LifelineStub\\');
    } elseif ($class->getExtensionName() === 'lifeline') {
        $built += describe($class, '');
    }
}
foreach ((new ReflectionExtension('lifeline'))->getFunctions() as $function) {
    $built["{$function->getName()}()"] = 'function';
}

$found = [];
foreach (array_keys($stub + $built) as $place) {
    $said = $stub[$place] ?? 'absent';
    $is = $built[$place] ?? 'absent';
    if ($said !== $is) {
        $found[$place] = ['stub' => $said, 'extension' => $is];
    }
}
$known = require "$folder/differences.php";
foreach ($found as $place => $difference) {
    if (($known[$place] ?? null) !== $difference) {
        echo "$place\n  the stub says '{$difference['stub']}'\n  the extension has '{$difference['extension']}'\n";
    }
}
foreach ($known as $place => $difference) {
    if (!isset($found[$place])) {
        echo "$place is in differences.php, but there is no difference\n";
    }
}

// The test itself can fail: it has seen classes of every kind.
foreach (['WsServer kind', 'WsClientInterface kind', 'WsState::Closed', 'WsClose::NORMAL', 'WsTransition::$delay'] as $place) {
    if (!isset($stub[$place], $built[$place])) {
        echo "$place was not compared\n";
    }
}
echo count($built) > 300 ? "done\n" : 'only ' . count($built) . " facts\n";
--EXPECT--
done
