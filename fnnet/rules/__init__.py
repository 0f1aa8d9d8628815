"""What a hand-derived rule is made with: the ground floor, which knows no op."""

from fnnet.rules.arguments import Static as Static
from fnnet.rules.both_modes import both_modes as both_modes
from fnnet.rules.cotangent import Like as Like
from fnnet.rules.cotangent import Precision as Precision
from fnnet.rules.cotangent import accumulator as accumulator
from fnnet.rules.cotangent import contract as contract
from fnnet.rules.cotangent import sum_to as sum_to
from fnnet.rules.devices import by_devices as by_devices
from fnnet.rules.devices import gathered as gathered
from fnnet.rules.mesh import OutSharding as OutSharding
from fnnet.rules.mesh import forward_with_axes_automatic as forward_with_axes_automatic
from fnnet.rules.mesh import result_sharding as result_sharding
from fnnet.rules.mesh import spread as spread
from fnnet.rules.mesh import tells_of_out_sharding as tells_of_out_sharding
from fnnet.rules.plain import plain as plain
from fnnet.rules.platform import by_platform as by_platform
from fnnet.rules.register import register as register
