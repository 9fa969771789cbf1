export type { ReconnectOptions } from './backoff.js';
export type { Events, Message, Refused, State, Transition } from './core.js';
export { Lifeline, type LifelineOptions, type Stats } from './lifeline.js';
export type { OutboxOptions } from './outbox.js';
export type { Gap } from './session.js';
export { ReconnectingWebSocket, type ReconnectingWebSocketOptions } from './websocket.js';
