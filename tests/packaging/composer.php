<?php
// Holds composer.json against the rules of PIE (docs/extension-maintainers.md of php/pie); prints, a line each, the
// extension's name, the folder to build in and the options that PIE offers for configure.
//   php composer.php ROOT
declare(strict_types=1);

$read = fn (string $file): array => json_decode(file_get_contents("$argv[1]/$file"), true, 16, JSON_THROW_ON_ERROR);
$package = $read('composer.json');
$extension = $package['php-ext'];
$name = '[a-z0-9]+([_.-][a-z0-9]+)*';
$known = [
    'extension-name', 'priority', 'support-zts', 'support-nts', 'build-path', 'download-url-method', 'os-families',
    'os-families-exclude', 'configure-options',
];
// PIE itself takes an option without needs-value or description; we give both.
$option = fn (array $option): bool => preg_match('/^[a-z-]+$/', $option['name'])
    && $option['needs-value'] === false && $option['description'] !== '';
$rules = [
    'type is php-ext' => $package['type'] === 'php-ext',
    'name is vendor/package' => (bool) preg_match("#^$name/$name$#", $package['name']),
    'name is not that of the PHP library' => $package['name'] !== $read('php/composer.json')['name'],
    'php-ext has known keys only' => array_diff(array_keys($extension), $known) === [],
    'extension-name is a name' => (bool) preg_match('/^[A-Za-z][a-zA-Z0-9_]+$/', $extension['extension-name']),
    'build-path has a config.m4' => is_file("$argv[1]/{$extension['build-path']}/config.m4"),
    'both thread models' => $extension['support-zts'] === true && $extension['support-nts'] === true,
    'Linux only' => $extension['os-families'] === ['linux'] && !isset($extension['os-families-exclude']),
    'requires nothing but PHP' => array_keys($package['require']) === ['php'],
    'configure-options' => array_filter($extension['configure-options'], $option) === $extension['configure-options'],
];
$broken = array_keys($rules, false, true);
if ($broken !== []) {
    fwrite(STDERR, 'composer.json, broken: ' . implode('; ', $broken) . PHP_EOL);
    exit(1);
}
$flags = array_map(fn (array $option): string => "--{$option['name']}", $extension['configure-options']);
echo $extension['extension-name'], PHP_EOL, $extension['build-path'], PHP_EOL, implode(' ', $flags), PHP_EOL;
