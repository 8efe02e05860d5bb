// Package mgs lets guests with the stock Systems Manager agent take part in Run Command.
//
// That agent, unmodified, calls a few actions in JSON and keeps a websocket, its control channel, on which it gets jobs and
// replies. To the gateway a control channel is a connection like that of our own agent: Channel translates. So one place
// owns the commands of an instance, whichever agent runs them:
//
//	ours ---- wire ------------------> delivery ---> commands/ID.json, stdout, stderr
//	stock --- TLS --- Service, Channel ----^
//
// Its sessions are translated, too, by package bridge: a data channel is one of the websockets here.
//
// Who an agent is, its address tells, as for ours; what it claims must agree, and its signatures, which say no more, are
// not looked at. It differs from ours in what it can do: an output is what it sends, the first 24,000 characters of stdout
// and 8,000 of stderr of each step, once the command has ended; ten commands at a time.
//
// At most once: whether a job arrived before its connection broke, the agent knows, for half an hour. So one of which it
// has not said a word is sent again within five minutes, and the agent tells a duplicate; later, or by a gateway that
// was started meanwhile, never: one that was lost then ends when its time is over.
package mgs
