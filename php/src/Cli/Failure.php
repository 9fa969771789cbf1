<?php
declare(strict_types=1);

namespace Lifeline\Cli;

/** What the user is told, and the status that the program ends with. */
final class Failure extends \RuntimeException
{
    /** It could not be done. */
    public const FAILED = 1;
    /** The command line is wrong. */
    public const USAGE = 2;
    /** There is a server, but it takes no clients. */
    public const NOT_READY = 3;

    public function __construct(string $message, int $status = self::FAILED)
    {
        parent::__construct($message, $status);
    }
}
