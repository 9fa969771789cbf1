export type { ReconnectOptions } from './backoff.js';
export type { Events, Gap, Message, OutboxOptions, Refused, State, Transition } from './core.js';
export { Lifeline, type LifelineOptions, type Stats } from './lifeline.js';

export { ReconnectingWebSocket, type ReconnectingWebSocketOptions } from './websocket.js';
