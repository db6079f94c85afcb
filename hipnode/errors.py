"""The node's own errors: one root, a name, a cause, and what the catcher needs to act."""

from typing import ClassVar

from hipnode.status import ReasonCode


class HipnodeError(Exception):
    """Root of every error hipnode raises on purpose. Its text is fit to show to a user."""


class SettingsError(HipnodeError):
    """A setting or a site file cannot be used; the text says which, why and what to do."""


class StoreRefused(HipnodeError):
    """A C-STORE request is answered with a failure (PS3.4 B.2.3)."""

    dimse_status: ClassVar[int] = 0xC000


class IdentityUnreadable(StoreRefused):
    """SOP Instance, Series or Study UID is missing or unusable; a copy is in quarantine."""


class OutOfResources(StoreRefused):
    """The node cannot keep the instance now; the sender should try again."""

    dimse_status = 0xA700


class SpoolFull(OutOfResources):
    """There is no room to keep the instance."""


class LedgerDown(OutOfResources):
    """The database does not answer."""


class BacklogFull(OutOfResources):
    """Too much work is waiting already."""


class SOPClassMismatch(StoreRefused):
    """The data set's SOP class is not the one of the request."""

    dimse_status = 0xA900


class IllegalTransition(HipnodeError):
    """A status cannot move: another process moved it first, or the lease was lost."""


class ReasonedError(HipnodeError):
    """An error that ends as a reason code with a sentence (`hipnode.status.ReasonCode`)."""

    def __init__(self, code: ReasonCode, sentence: str | None = None) -> None:
        self.code = code
        self.sentence = sentence or code.sentence
        super().__init__(f"{code}: {self.sentence}")


class ImageRejected(ReasonedError):
    """An image cannot be read; nothing is wrong with the node."""


class SelfCheckFailed(ReasonedError):
    """A result object is not fit to leave; the sentence names the attribute."""

    def __init__(self, sentence: str) -> None:
        super().__init__(ReasonCode.SELF_CHECK_FAILED, sentence)


class SpoolMissing(ReasonedError):
    """A stored file is missing, or its SHA-256 is not the recorded one."""

    def __init__(self, sentence: str | None = None) -> None:
        super().__init__(ReasonCode.SPOOL_MISSING, sentence)


class PackageError(HipnodeError):
    """A model package is missing, incomplete, or its hash is not the manifest's."""

    package_id: str | None = None  #: its id, as far as it is known


class PackageUnknown(PackageError):
    """A package that was asked for by id is not installed: wrong use."""


class DeviceMissing(HipnodeError):
    """The device a worker was told to use is not there."""
