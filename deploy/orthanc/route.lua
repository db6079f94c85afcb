-- Every study goes to hipnode once it is complete, unless hipnode sent it.
function OnStableStudy(studyId, tags, metadata)
   if metadata['RemoteAET'] ~= 'HIPNODE' then
      RestApiPost('/modalities/hipnode/store', DumpJson({ Resources = { studyId }, Synchronous = false }))
   end
end
