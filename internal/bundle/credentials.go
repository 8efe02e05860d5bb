package bundle

import "github.com/ichiro-metal/ichiro/internal/cloud"

// TicketFile is ticket.json: what the metadata service asks the control plane for the instance's tokens with (internal/ticket).
const TicketFile = "ticket.json"

// Credentials is credentials.json: the temporary keys of the instance's role, minted by the control
// plane in the background and copied here by the agent. The file is absent when the instance has no
// role; while no key could be minted, Code says why and the keys are empty, as EC2 answers.
type Credentials = cloud.Credentials
