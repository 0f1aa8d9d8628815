"""What things cost: `memory` looks at arrays and programs, `bench` times the ops on this device."""
