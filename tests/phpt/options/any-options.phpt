--TEST--
options: arrays that nobody would write are taken, or refused by a ValueError or TypeError fit for a log
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../../../fuzz/options.php';
[$tally, $failures, $grown] = trials(1, 2000);
foreach ($failures as $seed => $what) {
    echo "seed $seed: $what\n";
}
foreach (['taken', ValueError::class, TypeError::class] as $what) {
    echo $what, ': ', ($tally[$what] ?? 0) > 50 ? 'many' : 'hardly any', "\n";
}
echo $grown < 100_000 ? 'nothing is kept' : "$grown bytes are kept", "\n";
?>
--EXPECT--
taken: many
ValueError: many
TypeError: many
nothing is kept
